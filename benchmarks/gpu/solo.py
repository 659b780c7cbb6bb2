"""`python -m benchmarks.gpu.solo`: one adapter by raylora's training core against PEFT and transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.flops import step_flops
from benchmarks.gpu.device import forget, square_rate, timed
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.peft_side import PeftSide
from benchmarks.gpu.random_base import ONE_B, SEVEN_B, llama_config, random_trainee
from benchmarks.gpu.setting import Script, Setting
from benchmarks.summaries import ratios, summary
from benchmarks.tables import megabytes, percent, spread, table
from raylora.train.memory import PeakMemory
from raylora.train.step import Share
from raylora.train.trainee import Trainee

ROWS, TOKENS = 4, 512
SAME_LOSS = 2e-2
"""Of the first step, in bfloat16."""
ADAPTERS = {"peft": torch.float32, "peft, adapters in bfloat16": torch.bfloat16}
"""Two ways that people run PEFT: as it comes, and as TRL casts it over a quantized base."""


def measure(setting: Setting) -> dict[str, Any]:
    """The base asked for and one of 1B, each in both precisions."""
    small = replace(setting, hidden=min(ONE_B[0], setting.hidden), layers=min(ONE_B[1], setting.layers))
    shapes = {(each.hidden, each.layers): each for each in (small, setting)}
    cases = {}
    for (hidden, layers), shape in shapes.items():
        for bits in (16, 4):
            name = f"{hidden} wide, {layers} layers, {'NF4' if bits == 4 else 'not quantized'}"
            print(name, file=sys.stderr, flush=True)
            cases[name] = _compare(replace(shape, bits=bits))
            forget(setting.device)
    return {"goal": 1.0, "cases": cases}


def render(results: Mapping[str, Any]) -> str:
    """A line for each side of each case."""
    head = ("base", "side", "s a step", "tokens/s", "of matrix peak", "raylora is faster by", "a step's memory, MB")
    rows = [
        (
            name,
            side,
            spread(told["step_s"], "{:.3f}"),
            spread(told["tokens_per_s"], "{:.0f}"),
            percent(told["of_matrix_peak"]),
            spread(pair["raylora_is_faster_by"]) if side == other else "",
            megabytes(told["step_bytes"]),
        )
        for name, case in results["cases"].items()
        for other, pair in case.items()
        for side, told in pair["sides"].items()
    ]
    return (
        f"{ROWS} x {TOKENS} tokens a step, LoRA r=16 on all linear layers. PEFT runs under autocast, its adapters in "
        f"float32 as ours are, and in bfloat16. The goal is {results['goal']} times the fastest. A step's memory is "
        f"its peak above what lies before it.\n\n{table(head, rows)}"
    )


SCRIPT = Script(
    "solo",
    "One adapter against PEFT and transformers",
    "1B and 7B shapes, in bfloat16 and NF4, at least as many tokens a second as PEFT with transformers",
    measure,
    render,
    *SEVEN_B,
    turns=5,
)


@dataclass(frozen=True)
class Turns:
    """What one side's turns took.

    Args:
        seconds: Of each.
        step_bytes: Most memory above what lay before a step.
    """

    seconds: list[float]
    step_bytes: int


def _compare(setting: Setting) -> dict[str, Any]:
    """Each PEFT against raylora, on the same weights and rows."""
    device, config = setting.device, llama_config(setting.hidden, setting.layers)
    spec, found = run_spec(setting, ROWS, TOKENS), dict[str, Any]()
    for name, dtype in ADAPTERS.items():
        trainee = random_trainee(config, spec, device)
        trainee.admit(0, spec)
        ours, theirs = _take_turns(trainee, PeftSide(config, spec, device, dtype), setting.turns)
        flops = step_flops(trainee, _shares(0))
        peak = square_rate(device, trainee.model.dtype)
        found[name] = {
            "raylora_is_faster_by": ratios(theirs.seconds, ours.seconds),
            "sides": {
                side: {
                    "step_s": summary(turns.seconds),
                    "tokens_per_s": summary([ROWS * TOKENS / seconds for seconds in turns.seconds]),
                    "of_matrix_peak": summary([flops / seconds / peak for seconds in turns.seconds]),
                    "step_bytes": turns.step_bytes,
                }
                for side, turns in (("raylora", ours), (name, theirs))
            },
        }
        del trainee
        forget(device)
    return found


def _take_turns(trainee: Trainee, peft: PeftSide, num_turns: int) -> list[Turns]:
    """Ours and theirs one after the other; the first step warms up, and its losses agree."""
    sides: list[Callable[[int], float]] = [
        lambda turn: losses(trainee, _shares(turn))[0],
        lambda turn: peft.step(_shares(turn)[0].batches[0]),
    ]
    first = [side(0) for side in sides]
    if abs(first[0] - first[1]) > SAME_LOSS:
        raise SystemExit(f"the first losses, ours and PEFT's, are {first}, so the sides do not do the same work")
    seconds: list[list[float]] = [[], []]
    taken = [0, 0]
    for turn in range(1, 1 + num_turns):
        for number, side in enumerate(sides):
            with PeakMemory(trainee.device) as memory:
                seconds[number].append(timed(trainee.device, partial(side, turn)))
            taken[number] = max(taken[number], memory.peak_bytes - memory.start_bytes)
    return [Turns(*of_side) for of_side in zip(seconds, taken, strict=True)]


def _shares(turn: int) -> list[Share]:
    return shares_of(random_rows(TOKENS), 1, turn, ROWS)


if __name__ == "__main__":
    SCRIPT.run()
