"""One process: the speed and the memory of a pack of 1 to 64 slots, beside what is predicted from config.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.packing import WARM_UP_TURNS, say
from benchmarks.predicted import pack_bytes
from benchmarks.raylora_side import run_spec
from benchmarks.rows import Material
from benchmarks.sides import enter_raylora
from benchmarks.summaries import ratios, summary
from benchmarks.turns import Report, Stage
from benchmarks.workload import Workload
from raylora.model.base.meta import read_config

COUNTS = (1, 2, 4, 8, 16, 32, 64)
ROW_TOKENS = 32
JUDGED = "32"
"""Slots at which growth is held against what was predicted."""
MODULE = "slots_side"


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Speed over the turns, memory once.

    Args:
        material: What is trained on what.
        num_turns: Turns of the speed that count, after one that does not.
    """
    work = Workload(
        str(material.base),
        str(material.lines(ROW_TOKENS)),
        micro_batch_rows=1,
        num_threads=material.num_threads,
        options={"counts": COUNTS},
    )
    with Stage() as stage:
        side = enter_raylora(stage, work, material.folder, "speed", MODULE)
        turns = []
        for turn in range(WARM_UP_TURNS + num_turns):
            turns.append(side.turn()[0]["counts"])
            say(turn, num_turns, {count: (told["wall_s"],) for count, told in turns[-1].items()})
    with Stage() as stage:
        side = enter_raylora(stage, replace(work, watches_memory=True), material.folder, "memory", MODULE)
        memory = side.turn()[0]["counts"]
    of_slot, config = run_spec(replace(work, options={"sequence_len": ROW_TOKENS})), read_config(material.base)
    predicted = {str(count): pack_bytes(of_slot, config, "cpu", count) for count in COUNTS}
    return {
        "threads": work.num_threads,
        "row_tokens": ROW_TOKENS,
        "speed": _speed(turns[WARM_UP_TURNS:]),
        "memory": memory,
        "predicted": predicted,
        "growth_per_slot": _growth(memory, predicted),
    }


def _speed(turns: Sequence[Mapping[str, Report]]) -> dict[str, Any]:
    rates = {count: [turn[count]["num_tokens"] / turn[count]["wall_s"] for turn in turns] for count in turns[0]}
    one = rates[str(COUNTS[0])]
    return {
        count: {
            "step_s": summary([turn[count]["wall_s"] for turn in turns]),
            "tokens_per_s": summary(rate),
            "times_one_slot": ratios(rate, one),
        }
        for count, rate in rates.items()
    }


def _growth(memory: Mapping[str, Report], predicted: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Bytes that each slot after the first added between steps: predicted, counted, and of the process."""
    first, last = str(COUNTS[0]), JUDGED
    grown = {
        name: (memory[last][name] - memory[first][name]) / (int(last) - int(first))
        for name in ("live_bytes", "resident_bytes")
    }
    return {"slots": int(last), "predicted_bytes": predicted[last]["slot_bytes"], **grown}
