"""After twenty trials that were stopped and a worker that was killed, a cluster is as it was before the sweep."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.cluster.command import Command, wait_until
from tests.cluster.conftest import SWEPT
from tests.cluster.made_sweeps import whole, write
from tests.servers.ray import RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(600)]

NUM_STOPS = 20
SWEEP: dict[str, Any] = {
    "run": SWEPT | {"distributed": SWEPT["distributed"] | {"max_failures": 1}, "save_steps": 4},
    "num_trials": 40,
    "scheduler": "asha",
    "budget": {"steps": 16},
    "report_steps": 1,
    "grace_period": 1,
    "slots": 4,
    "space": {"learning_rate": {"loguniform": [1e-4, 3e-2]}},
}
"""Three of four trials are stopped at their first step; the others have many to go. Two workers share the base."""


def next_workers(ray_head: RayHead, but: set[int]) -> dict[str, int]:
    """Those that train next, once both are there: process ids by rank."""

    def found() -> dict[str, int]:
        seen = ray_head.seen_by_workers().items()
        return {env["RANK"]: pid for pid, env in seen if "RANK" in env and pid not in but}

    wait_until(lambda: len(found()) == 2, 120)
    return found()


def test_nothing_is_left_of_stopped_trials_and_a_killed_worker(on_head: Command, ray_head: RayHead):
    ray_head.forget_workers()
    before = ray_head.in_use()
    running = on_head.start("sweep", write(on_head.folder, "stopped.yaml", SWEEP), "--json")
    wait_until(lambda: running.said.count(" stopped after step") >= NUM_STOPS, 240)
    first = next_workers(ray_head, but=set())
    psutil.Process(first["1"]).kill()
    last = next_workers(ray_head, but=set(first.values()))
    ended = running.end()
    statuses = [trial["status"] for trial in whole(ended)["trials"]]
    assert set(statuses) == {"succeeded", "stopped"} and statuses.count("stopped") >= NUM_STOPS
    assert ended.left_behind == ()
    assert ray_head.census() == {"actors": [], "groups": []}
    with suppress(TimeoutError):
        wait_until(lambda: ray_head.in_use() == before, 60)
    assert ray_head.in_use() == before
    assert not any(map(psutil.pid_exists, (*first.values(), *last.values())))
