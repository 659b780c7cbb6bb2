"""CPU, memory, disk, network and GPU use of the machine that tracks, under MLflow's own names.

MLflow's monitors measure; its sender does not fit, since it needs MLflow's global active run and drops what the server
does not take. In comes a function for metrics, out of it go samples. Called by the tracker.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

INTERVAL_S = 10.0


class SystemSampler:
    """Samples until it is stopped, and once at its end where it was too short for any.

    Args:
        log: Takes a step and its metrics.
        started_ms: When the MLflow run began; a sample's step is the seconds since, also after a resume.
        interval_s: Seconds between samples.
    """

    def __init__(
        self, log: Callable[[int, Mapping[str, float]], None], started_ms: int, interval_s: float = INTERVAL_S
    ) -> None:
        self._log, self._started_ms, self._interval_s = log, started_ms, interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raylora-system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; no sample is logged after it."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        monitors = _monitors()
        sample(monitors)  # psutil's first answer on CPU use is always 0
        has_logged = False
        while not self._stopping.wait(self._interval_s) or not has_logged:
            step = int(time.time() - self._started_ms / 1000)
            self._log(step, sample(monitors))
            has_logged = True


def sample(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    """Return one sample of every monitor by MLflow's names."""
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def _monitors() -> list[BaseMetricsMonitor]:
    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(ImportError, RuntimeError):  # nvidia-ml-py is not installed, or NVIDIA has no GPU here
        monitors.append(GPUMonitor())
    return monitors
