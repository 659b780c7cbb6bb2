"""Two workers that shard a 4-bit base: raylora's training core against TRL under `accelerate launch`.

No Ray on either side, one thread a worker, the same rows. TRL is started in every way its documentation offers; what
does not run is kept with its error, and what runs with the strategy and the bytes of base that it really had.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.rows import Material
from benchmarks.sides import FSDP2, ZERO3, enter_accelerate, enter_raylora
from benchmarks.solo import WARM_UP_TURNS, compared, take_turns
from benchmarks.turns import Side, SideFailed, Stage
from benchmarks.workload import Workload

NUM_RANKS, ROW_TOKENS = 2, 128
# TRL's name of an attempt: flags of `accelerate launch`, options of its side.
ATTEMPTS: dict[str, dict[str, tuple[tuple[str, ...], Mapping[str, object]]]] = {
    "fsdp": {
        "trl-fsdp2": (FSDP2, {"use_cpu": True}),
        "trl-fsdp2-gloo": (FSDP2, {"use_cpu": False}),
    },
    "zero3": {
        "trl-zero3": (ZERO3, {"use_cpu": True}),
        "trl-zero3-gloo": (ZERO3, {"use_cpu": False}),
    },
}


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Both strategies.

    Args:
        material: What is trained on what.
        num_turns: Turns of each side that count, after one that does not.
    """
    work = Workload(
        str(material.base), str(material.lines(ROW_TOKENS)), num_ranks=NUM_RANKS, micro_batch_rows=2, num_threads=1
    )
    return {strategy: _compare(material, replace(work, strategy=strategy), num_turns) for strategy in ATTEMPTS}


def _compare(material: Material, work: Workload, num_turns: int) -> dict[str, Any]:
    errors: dict[str, str] = {}
    with Stage() as stage:
        sides = [enter_raylora(stage, work, material.folder)]
        sides[0].turn()
        for name, (flags, options) in ATTEMPTS[work.strategy].items():
            try:
                side = enter_accelerate(stage, work, material.folder, name, flags, float32_adapters=True, **options)
                side.turn()  # what fails does so in its first step
                sides.append(side)
            except SideFailed as failure:
                errors[name] = str(failure)
                print(f"{name}: {failure}", file=sys.stderr, flush=True)
        turns = take_turns(sides, num_turns)
    counted = {name: reports[WARM_UP_TURNS:] for name, reports in turns.items()}
    return compared(counted) | {"errors": errors, "ran": {side.name: _what_ran(side) for side in sides}}


def _what_ran(side: Side) -> dict[str, Any]:
    """The strategy that the side says it had, and what each rank held of the base."""
    return {
        "strategy": side.ready[0]["ran"],
        "num_ranks": side.ready[0].get("num_processes", len(side.ready)),
        "base_bytes_per_rank": [told["base_bytes"] for told in side.ready],
        "load_peak_bytes_per_rank": [told["load_peak_bytes"] for told in side.ready],
    }
