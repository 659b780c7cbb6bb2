"""The most that a pack's worker really holds, beside what the plan of its sweep reserves for it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raylora.model.source.source import base_config
from raylora.sweep.planning.offer import this_machine
from raylora.sweep.planning.plan import plan_sweep
from raylora.sweep.planning.width import usable_bytes
from tests.cluster.command import Command
from tests.cluster.conftest import ALONE_ON_ITS_RANK, SWEPT
from tests.cluster.made_sweeps import in_workplace, loaded, whole, write
from tests.cluster.stopped import next_workers
from tests.servers.ray import RayHead
from tests.unit.train.tiny_run import save_base

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

WIDE = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8}
"""Its activations are as large as a process with torch in it."""
RUN = SWEPT | {"base_model": "wide", "distributed": ALONE_ON_ITS_RANK, "micro_batch_size": 4, "lora_dropout": 0.1}
SWEEP: dict[str, Any] = {
    "run": RUN | {"lora_r": 16, "save_steps": 1},
    "searcher": "grid",
    "budget": {"steps": 3},
    "report_steps": 1,
    "slots": 4,
    "space": {"learning_rate": {"choice": [1e-3, 2e-3, 3e-3, 4e-3]}},
}
LOOK_S = 0.01
SPARE = 1.6
"""A plan asks for no more than so many times what is held."""


def held_bytes(pid: int) -> int:
    """Memory of a process alone; pages of files may be let go. 0 once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    return 0


def test_a_packs_worker_holds_at_most_what_was_planned_and_not_far_less(
    on_head: Command, ray_head: RayHead, in_workplace: Path
):
    ray_head.forget_workers()
    save_base(in_workplace / "wide", **WIDE)
    name = write(in_workplace, "memory.yaml", SWEEP)
    (group,) = plan_sweep(loaded(in_workplace, name), this_machine(), base_config, foretells=False).groups
    assert group.width.num_slots == SWEEP["slots"]
    running = on_head.start("sweep", name, "--json")
    (pid,) = next_workers(ray_head, but=set(), number=1).values()
    held = 0
    while running.process.poll() is None:
        held = max(held, held_bytes(pid))
        time.sleep(LOOK_S)
    assert [trial["status"] for trial in whole(running.end())["trials"]] == ["succeeded"] * 4
    planned = group.held_bytes
    told = f"{planned / 1e6:.0f} MB planned, the process at its most {held / 1e6:.0f} MB"
    assert usable_bytes(held, "cpu") <= planned, told
    assert planned <= usable_bytes(round(SPARE * held), "cpu"), told
