"""Twenty kills in one sweep whose two packs are gangs that compete for a cluster: both end, and none left anything.

Workers are killed as they start, as they train and after saves, one or both of a pack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from raylora.store.blob import Store, open_store
from raylora.store.manifest import MANIFEST
from tests.cluster.alone import APART, trained_alone
from tests.cluster.command import Command, Running, wait_until
from tests.cluster.conftest import GANG, SWEPT
from tests.cluster.made_sweeps import each_step_told_once, in_workplace, loaded, run_of, whole, write
from tests.cluster.stopped import check_as_before, next_workers
from tests.servers.ray import RayHead

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(1500)]

NUM_KILLS_OF_EACH = 10
WAYS = (("after a save", "0"), ("as they train", "1"), ("after a save", "01"), ("as they start", "1"))
"""When, and which ranks: one after the other."""
SETTLED = len(WAYS)
"""Kills after which a process has whatever the handling of one makes it load."""
KEPT_BYTES = 30 * 10**6
"""What a process may hold more after sixteen further kills."""
SWEEP: dict[str, Any] = {
    "run": SWEPT | {"distributed": GANG | {"max_failures": 2 * NUM_KILLS_OF_EACH}, "save_steps": 8, "num_epochs": 100},
    "searcher": "grid",
    "budget": {"steps": 400},
    "report_steps": 8,
    "slots": 2,
    "space": {"load_in_4bit": {"choice": [True, False]}, "learning_rate": {"choice": [1e-3, 2e-3]}},
}
"""Two trials for each pack: with so many steps, neither is through before it was killed often enough."""


def saves(store: Store) -> set[str]:
    return {key for key in store.keys("runs") if key.endswith(f"/{MANIFEST}") and "/step-" in key}


class Killer:
    """Kills workers of whichever pack is there.

    Args:
        running: The sweep.
        ray_head: Where it runs.
        store: Where it saves.
    """

    def __init__(self, running: Running, ray_head: RayHead, store: Store) -> None:
        self._running, self._ray_head, self._store = running, ray_head, store
        self.pids: set[int] = set()
        self.num_kills = 0

    def meet(self) -> dict[str, int]:
        """Wait for the next pair of workers: process ids by rank."""
        group = next_workers(self._ray_head, but=self.pids)
        self.pids.update(group.values())
        return group

    def kill(self) -> None:
        """Kill one or both of the next pair."""
        known, said = saves(self._store), self.num_trainings
        group = self.meet()
        when, ranks = WAYS[self.num_kills % len(WAYS)]
        if when == "as they train":
            wait_until(lambda: self.num_trainings > said, 120)
        if when == "after a save":
            wait_until(lambda: bool(saves(self._store) - known), 120)
        for rank in ranks:
            psutil.Process(group[rank]).kill()
        self.num_kills += 1

    @property
    def num_trainings(self) -> int:
        """How often the command has said that workers train."""
        return self._running.said.splitlines().count("training")


def held_bytes(running: Running, ray_head: RayHead) -> dict[str, int]:
    """Memory of what outlives every pack, of each process alone: the driver, its leases', and Ray with all shared."""
    (leases,) = ray_head.processes_of("Host")
    processes = {"driver": psutil.Process(running.process.pid), "leases": leases}
    return {name: each.memory_full_info().uss for name, each in processes.items()} | {"ray": ray_head.held_bytes()}


def test_twenty_kills_of_workers_of_two_gangs_leave_nothing(
    on_head: Command, ray_head: RayHead, in_workplace: Path, tmp_path: Path
):
    ray_head.forget_workers()
    before = ray_head.in_use()
    running = on_head.start("sweep", write(on_head.folder, "killed.yaml", SWEEP), "--json")
    killer = Killer(running, ray_head, open_store(str(on_head.home / "store")))
    for _ in range(SETTLED):
        killer.kill()
    settled = held_bytes(running, ray_head)
    while killer.num_kills < NUM_KILLS_OF_EACH:
        killer.kill()
    killer.meet()
    running.wait_for("2/4 trials over")  # one gang is through, and the other takes its place
    while killer.num_kills < 2 * NUM_KILLS_OF_EACH:
        killer.kill()
    last = held_bytes(running, ray_head)
    ended = running.end()
    result = whole(ended)
    assert [(trial["status"], trial["steps"]) for trial in result["trials"]] == [("succeeded", 400)] * 4
    assert sorted(trial["pack"] for trial in result["trials"]) == [0, 0, 1, 1]
    check_as_before(ray_head, before, ended)
    assert not any(map(psutil.pid_exists, killer.pids))
    last["ray, at the end"], settled["ray, at the end"] = ray_head.held_bytes(), settled["ray"]
    assert all(last[name] - settled[name] < KEPT_BYTES for name in settled), f"{last} after {settled}"
    each_step_told_once(on_head, result)
    sweep = loaded(in_workplace, "killed.yaml")
    for trial in result["trials"][:2]:
        alone = trained_alone(run_of(sweep, trial), tmp_path)
        assert alone.progress.eval_loss == pytest.approx(trial["metric"], abs=APART), trial["trial_id"]
