"""One process: raylora's training core against TRL's SFTTrainer with PEFT, and against the machine's matrix products.

Both sides take the same rows in the same order with the same threads; the first losses must agree.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.rows import Material
from benchmarks.sides import enter_gemm, enter_raylora, enter_trl
from benchmarks.summaries import held_against, ratios, summary
from benchmarks.turns import Report, Side, SideFailed, Stage
from benchmarks.workload import Workload
from raylora.model.base.dtype import cpu_has_bf16

ROW_TOKENS, BIN_TOKENS = 128, 256
TRL_DEFAULT_ROWS = 8
"""Rows of a micro-batch where nobody says."""
WARM_UP_TURNS = 1
SAME_LOSS = {"float32": 1e-4, "bfloat16": 1e-2}
PACKED = "trl-own-packing"
GOALS = {"steps": 1.4, "binned": 2.0, "of_matrix_products": 0.85}


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """All cases.

    Args:
        material: What is trained on what.
        num_turns: Turns of each side that count, after one that does not.
    """
    plain = Workload(str(material.base), str(material.lines(ROW_TOKENS)), num_threads=material.num_threads)
    chats = replace(plain, rows=str(material.chats(ROW_TOKENS)))
    long = replace(plain, rows=str(material.chats(BIN_TOKENS)), micro_batch_rows=TRL_DEFAULT_ROWS, accumulation_steps=2)
    binned = replace(long, bin_tokens=BIN_TOKENS)
    cases = {
        "all tokens": _compare(material, plain, plain, num_turns, with_products=True),
        "assistant only": _compare(material, chats, chats, num_turns, with_products=False),
        "binned": _compare(material, binned, long, num_turns, with_products=False),
    }
    if cpu_has_bf16():
        half = replace(plain, dtype="bfloat16")
        cases["all tokens, bfloat16"] = _compare(material, half, half, num_turns, with_products=False)
    return {"goals": GOALS, "threads": plain.num_threads, "cases": cases}


def _compare(
    material: Material, ours: Workload, theirs: Workload, num_turns: int, with_products: bool
) -> dict[str, Any]:
    with Stage() as stage:
        sides = [enter_raylora(stage, ours, material.folder), enter_trl(stage, theirs, material.folder, "trl")]
        if ours.dtype == "float32":
            sides.append(enter_trl(stage, theirs, material.folder, "trl-float32-adapters", float32_adapters=True))
        if ours.bin_tokens:
            packed = replace(theirs, bin_tokens=ours.bin_tokens, accumulation_steps=1)
            sides.append(enter_trl(stage, packed, material.folder, PACKED, float32_adapters=True, packing=True))
        if with_products:
            sides.append(enter_gemm(stage, ours, material.folder, ROW_TOKENS))
        turns = take_turns(sides, num_turns)
    first_losses = {name: reports[0]["loss"] for name, reports in turns.items() if name not in (PACKED, "gemm")}
    check_same_rows(first_losses, SAME_LOSS[ours.dtype])
    counted = {name: reports[WARM_UP_TURNS:] for name, reports in turns.items()}
    products = counted.pop("gemm", None)
    result = compared(counted) | {"first_losses": first_losses}
    if products is not None:
        result["of_matrix_products"] = _of_products(counted["raylora"], products)
    return result


def take_turns(sides: Sequence[Side], num_turns: int) -> dict[str, list[Report]]:
    """Let each side work in turn; what its rank 0 told, warm-up first."""
    turns: dict[str, list[Report]] = {side.name: [] for side in sides}
    for turn in range(WARM_UP_TURNS + num_turns):
        for side in sides:
            turns[side.name].append(side.turn()[0])
        seconds = ", ".join(
            f"{name} {told[-1]['wall_s']:.1f} s" for name, told in turns.items() if "wall_s" in told[-1]
        )
        print(f"turn {turn} of {num_turns}: {seconds}", file=sys.stderr, flush=True)
    return turns


def check_same_rows(first_losses: Mapping[str, float], tolerance: float) -> None:
    """The first losses come before the first update: they differ only if the rows do.

    Raises:
        SideFailed: Two sides did not train on the same rows.
    """
    losses = first_losses.values()
    if max(losses) - min(losses) > tolerance:
        raise SideFailed(f"the first losses differ, so the sides did not see the same rows: {first_losses}")


def compared(turns: Mapping[str, Sequence[Report]]) -> dict[str, Any]:
    """Each side's seconds and real tokens a second, and how many times faster raylora is."""
    rates = {name: [told["num_tokens"] / told["wall_s"] for told in reports] for name, reports in turns.items()}
    sides = {
        name: {
            "step_s": summary([told["wall_s"] for told in reports]),
            "tokens_per_s": summary(rates[name]),
            "tokens": [told["num_tokens"] for told in reports],
        }
        for name, reports in turns.items()
    }
    faster = {name: ratios(rates["raylora"], other) for name, other in rates.items() if name != "raylora"}
    return {"sides": sides, "times_faster_than": faster}


def _of_products(steps: Sequence[Report], products: Sequence[Report]) -> dict[str, Any]:
    made = [told["flops"] / told["wall_s"] for told in steps]
    return {
        "step_flops": steps[0]["flops"],
        "step_flops_per_s": summary(made),
        "kernels": held_against([told["flops_per_s"] for told in products], made),
    }
