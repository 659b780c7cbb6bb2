"""What the recovery benchmark makes of a run's events, with real processes in the workers' place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.machine import machine
from benchmarks.recovery import MOST_TURNS, PARTS, SPANS, summaries
from benchmarks.recovery_striker import Striker
from benchmarks.report import render
from benchmarks.results import save
from raylora.train.events import Event
from raylora.train.start_parts import LOADING

Worker = subprocess.Popen[bytes]
PHASES = ("start workers", "import", "wait for the driver's checks", "base and data", *LOADING)


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    """Two that hear of nothing; a third takes the second's place."""
    started = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(3)]
    yield started
    for worker in started:
        worker.kill()
        worker.wait()
        assert worker.stdin is not None
        worker.stdin.close()


def begin(striker: Striker, rank_0: Worker, rank_1: Worker, step: int, at: float) -> None:
    """New workers come as far as their first step."""
    striker.hear(Event("doing", 0, {"what": "started", "at": at, "pids": [rank_0.pid, rank_1.pid]}))
    for name in PHASES:
        striker.hear(Event("phase", 0, {"name": name, "seconds": 1.0, "at": at + 1}))
    striker.hear(Event("start", step, {"num_steps": 99, "at": at + 2}))


def train(striker: Striker, first: int, last: int, at: float = 0.0) -> None:
    """Steps, and a checkpoint after each fourth."""
    for step in range(first, last + 1):
        striker.hear(Event("step", step, {"at": at + step}))
        if step % 4 == 0:
            striker.hear(Event("checkpoint", step, {"uri": ""}))


def fail(striker: Striker, at: float) -> None:
    """The controller sees a failure and ends what is left."""
    for what in ("noticed", "ended"):
        striker.hear(Event("doing", 0, {"what": what, "at": at}))


def test_each_fault_strikes_rank_1_some_steps_after_a_checkpoint(workers: list[Worker]):
    first, second, third = workers
    ends: list[str] = []
    striker = Striker(lambda: ends.append("done"))
    begin(striker, first, second, 0, at=0.0)
    train(striker, 1, 6)
    assert second.poll() is None
    train(striker, 7, 7)
    assert second.wait(10) < 0
    striker.hear(Event("step", 8, {}))  # it was done, but told late
    fail(striker, at=100.0)
    begin(striker, first, third, 4, at=200.0)
    train(striker, 5, 7, at=300.0)
    assert striker.missed == ["killed", "stopped"], "step 8 was done and is not done again yet"
    train(striker, 8, 10, at=300.0)
    assert psutil.Process(third.pid).status() != psutil.STATUS_STOPPED
    train(striker, 11, 11)
    assert os.WIFSTOPPED(os.waitpid(third.pid, os.WUNTRACED)[1])
    assert not ends
    fail(striker, at=500.0)
    begin(striker, first, second, 8, at=600.0)
    train(striker, 9, 11, at=700.0)
    assert ends == ["done"] and not striker.missed
    striker.leave()
    assert third.wait(10) < 0, "a process that stays stopped would outlive the run"
    moments, again = striker.found["killed"]["moments"], striker.found["killed"]["steps_again"]
    told = {"noticed": 100.0, "ended": 100.0, "started": 200.0, "start": 202.0, "step": 305.0, "back": 308.0}
    assert moments.items() >= told.items()
    assert (again, striker.found["stopped"]["steps_again"]) == (4, 3)
    assert moments.keys() >= set(PARTS), "what the parts end with is told under these names"


def test_parts_add_up_and_are_told(tmp_path: Path):
    moments = {name: float(number**2) for number, name in enumerate(("fault", *PARTS))}
    found = summaries([{"moments": moments, "steps_again": 3}] * MOST_TURNS)
    assert sum(part["median"] for part in found["parts_s"].values()) == found["back_s"]["median"]
    assert found["ended_s"]["median"] + found["again_s"]["median"] == moments["step"]
    assert found.keys() >= SPANS.keys()
    assert "From a fault" not in render(tmp_path), "what was not measured is left out"
    told = {"worker_timeout_s": 10, "faults": {"killed": found}}
    save(tmp_path, "recovery", machine(), {"base": "a base", "turns": 3}, told)
    text = render(tmp_path)
    assert "| part, s | a worker is killed |" in text
    assert all(f"| {part} | " in text for part in PARTS.values())
