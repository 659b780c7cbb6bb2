"""Peak memory of each rank by strategy, with the base plain and in NF4, beside what `raylora estimate` predicts."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from benchmarks.raylora_side import run_spec
from benchmarks.rows import Material
from benchmarks.sides import enter_raylora
from benchmarks.turns import SideFailed, Stage
from benchmarks.workload import Workload
from raylora.model.base.meta import read_config
from raylora.train.prediction.estimate import estimate

STRATEGIES = ("ddp", "fsdp", "zero1", "zero2", "zero3")
NUM_RANKS, ROW_TOKENS = 2, 128
MOST_TURNS = 2
"""Steps over which the peak is taken: all are alike."""


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Every strategy with and without NF4.

    Args:
        material: What is trained on what.
        num_turns: Steps over which the peak is taken.
    """
    work = Workload(
        str(material.base),
        str(material.lines(ROW_TOKENS)),
        num_ranks=NUM_RANKS,
        watches_memory=True,
        options={"sequence_len": ROW_TOKENS},
    )
    return {
        f"{strategy}, {'NF4' if quantized else 'float32'}": _measure_one(
            material, replace(work, strategy=strategy, quantized=quantized), num_turns
        )
        for quantized in (False, True)
        for strategy in STRATEGIES
    }


def _measure_one(material: Material, work: Workload, num_turns: int) -> dict[str, Any]:
    predicted = estimate(run_spec(work), read_config(material.base)).to_json()
    try:
        with Stage() as stage:
            side = enter_raylora(stage, work, material.folder)
            turns = [side.turn() for _ in range(num_turns)]
    except SideFailed as failure:
        print(f"{work.strategy}: {failure}", file=sys.stderr, flush=True)
        return {"predicted": predicted, "error": str(failure)}
    return {
        "predicted": predicted,
        "base_bytes_per_rank": [told["base_bytes"] for told in side.ready],
        "start_bytes_per_rank": [told["start_bytes"] for told in side.ready],
        "load_peak_bytes_per_rank": [told["load_peak_bytes"] for told in side.ready],
        "train_peak_bytes_per_rank": [max(turn[rank]["peak_bytes"] for turn in turns) for rank in range(NUM_RANKS)],
    }
