from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import psutil
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

from raylora.tracking.system import SystemSampler, sample


def test_a_sample_has_mlflows_names_and_the_machines_values():
    values = sample([CPUMonitor()])
    assert set(values) == {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
    }
    assert 0 < values["system/system_memory_usage_megabytes"] < psutil.virtual_memory().total / 1e6


def test_samples_come_at_the_age_of_the_run_and_end_with_the_sampler():
    got: list[tuple[int, Mapping[str, float]]] = []
    enough = threading.Event()

    def log(step: int, values: Mapping[str, float]) -> None:
        got.append((step, values))
        if len(got) == 2:
            enough.set()

    sampler = SystemSampler(log, started_ms=int(time.time() * 1000) - 100_000, interval_s=0.01)
    assert enough.wait(30)
    sampler.stop()
    number = len(got)
    assert all(100 <= step < 1000 for step, _ in got)
    assert "system/disk_usage_percentage" in got[0][1]
    time.sleep(0.05)
    assert len(got) == number


def test_a_run_that_is_shorter_than_the_interval_has_one_sample():
    got: list[int] = []
    sampler = SystemSampler(lambda step, values: got.append(step), started_ms=int(time.time() * 1000), interval_s=600)
    sampler.stop()
    assert len(got) == 1
