"""`python -m benchmarks.gpu.packing`: a pack of adapters against each alone, on one CUDA device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.flops import step_flops
from benchmarks.gpu.device import square_rate, timed
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import SEVEN_B, llama_config, random_trainee
from benchmarks.gpu.setting import Script, Setting
from benchmarks.predicted import pack_bytes
from benchmarks.summaries import ratios, summary
from benchmarks.tables import megabytes, percent, spread, table
from raylora.data.tokenised import TokenisedRows
from raylora.train.memory import PeakMemory
from raylora.train.step import Share
from raylora.train.trainee import Trainee

SAME_LOSS = 2e-2
"""Of the first step: in bfloat16 a kernel may be chosen by the number of rows."""


@dataclass(frozen=True)
class Case:
    """What is compared.

    Args:
        rows: Of each slot's micro-batch.
        tokens: Of a row.
        slots: In the pack.
        goal: How many times faster the pack is to be.
    """

    rows: int
    tokens: int
    slots: int
    goal: float

    @property
    def name(self) -> str:
        """Short words."""
        return f"{self.rows} x {self.tokens} tokens, {self.slots} slots"


CASES = (Case(1, 512, 8, 2.5), Case(2, 512, 8, 1.6), Case(4, 512, 8, 1.1), Case(1, 128, 32, 8.0))


def measure(setting: Setting) -> dict[str, Any]:
    """All cases on one base."""
    config = llama_config(setting.hidden, setting.layers)
    longest = max(case.tokens for case in CASES)
    with PeakMemory(setting.device) as memory:
        trainee = random_trainee(config, run_spec(setting, 1, longest), setting.device)
    cases = {}
    for case in CASES:
        print(case.name, file=sys.stderr, flush=True)
        spec = run_spec(setting, case.rows, case.tokens)
        cases[case.name] = {
            "goal": case.goal,
            **_compare(trainee, case, setting.turns, memory.start_bytes),
            "predicted": pack_bytes(spec, config, setting.device.type, case.slots),
        }
    dtype = trainee.model.dtype
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "base_bytes": trainee.held_base_bytes,
        "square_flops_per_s": square_rate(setting.device, dtype),
        "cases": cases,
    }


def render(results: Mapping[str, Any]) -> str:
    """A line for each case."""
    head = (
        "micro-batch",
        "alone, s",
        "pack, s",
        "pack is faster by",
        "goal",
        "of matrix peak",
        "peak, MB",
        "predicted",
    )
    peak = results["square_flops_per_s"]
    rows = [
        (
            name,
            spread(case["alone_s"], "{:.3f}"),
            spread(case["pack_s"], "{:.3f}"),
            spread(case["pack_is_faster_by"]),
            f"{case['goal']}",
            percent({key: rate / peak for key, rate in case["flops_per_s"].items()}),
            megabytes(case["pack_peak_bytes"]),
            megabytes(case["predicted"]["peak_bytes"]),
        )
        for name, case in results["cases"].items()
    ]
    return (
        f"Large square products in {results['dtype']}, the matrix peak: {peak / 1e12:.1f} TFLOP/s. Operations are "
        f"counted without what is recomputed.\n\n{table(head, rows)}"
    )


SCRIPT = Script(
    "packing",
    "A pack of adapters against each alone",
    "8 slots of 1, 2 and 4 x 512 tokens at least 2.5, 1.6 and 1.1 times as fast as each alone, 32 of 128 tokens 8",
    measure,
    render,
    *SEVEN_B,
    turns=5,
)


def _compare(trainee: Trainee, case: Case, num_turns: int, start_bytes: int) -> dict[str, Any]:
    """Both sides on the same slots, in turns; each side's first step, on slots at their start, is its warm-up."""
    rows = random_rows(case.tokens)
    sides: dict[str, Callable[[int], list[float]]] = {
        "alone": lambda turn: [loss for share in _shares(case, rows, turn) for loss in losses(trainee, [share])],
        "pack": lambda turn: losses(trainee, _shares(case, rows, turn)),
    }
    first = {name: _fresh(trainee, case, side) for name, side in sides.items()}
    apart = max(abs(one - other) for one, other in zip(first["alone"], first["pack"], strict=True))
    if apart > SAME_LOSS:
        raise SystemExit(f"{case.name}: the first losses differ by {apart}, so the sides do not do the same work")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, int] = dict.fromkeys(sides, 0)
    for turn in range(1, 1 + num_turns):
        for name, side in sides.items():
            with PeakMemory(trainee.device) as memory:
                seconds[name].append(timed(trainee.device, partial(side, turn)))
            peaks[name] = max(peaks[name], memory.peak_bytes - start_bytes)
    flops = step_flops(trainee, _shares(case, rows, 0))
    _release(trainee, case)
    return {
        "alone_s": summary(seconds["alone"]),
        "pack_s": summary(seconds["pack"]),
        "pack_is_faster_by": ratios(seconds["alone"], seconds["pack"]),
        "flops": flops,
        "flops_per_s": summary([flops / taken for taken in seconds["pack"]]),
        "alone_peak_bytes": peaks["alone"],
        "pack_peak_bytes": peaks["pack"],
        "first_losses_apart": apart,
    }


def _shares(case: Case, rows: TokenisedRows, turn: int) -> list[Share]:
    return shares_of(rows, case.slots, turn, case.rows)


def _fresh(trainee: Trainee, case: Case, side: Callable[[int], list[float]]) -> list[float]:
    """Losses of a side's step on new adapters, the same for each side."""
    if trainee.steppers:
        _release(trainee, case)
    for slot in range(case.slots):
        trainee.admit(slot, trainee.spec.model_copy(update={"seed": slot}))
    return side(0)


def _release(trainee: Trainee, case: Case) -> None:
    for slot in range(case.slots):
        trainee.release(slot)


if __name__ == "__main__":
    SCRIPT.run()
