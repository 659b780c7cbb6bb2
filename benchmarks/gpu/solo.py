"""`python -m benchmarks.gpu.solo`: one adapter by raylora's training core against PEFT and transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.flops import step_flops
from benchmarks.gpu import liger
from benchmarks.gpu.attempt import NotTheSameError, attempt, why_not
from benchmarks.gpu.claim import Claim, at_least, of_each_case
from benchmarks.gpu.device import timed
from benchmarks.gpu.material import SAME_LOSS, losses, random_rows, run_spec, shares_of
from benchmarks.gpu.peft_side import PeftSide, Way
from benchmarks.gpu.random_base import ONE_B, SEVEN_B, kept_activations, llama_config, random_trainee
from benchmarks.gpu.roofline import Peaks, step_floor_s
from benchmarks.gpu.script import Script
from benchmarks.gpu.setting import Setting
from benchmarks.summaries import ratios, summary
from benchmarks.tables import megabytes, percent, spread, table
from raylora.model.base.dtype import compute_dtype
from raylora.objectives import linear_cross_entropy
from raylora.train.memory import PeakMemory
from raylora.train.step import Share
from raylora.train.trainee import Trainee

ROWS, TOKENS = 4, 512
OURS, CHOICES = "raylora", "choices"
WAYS = {
    "PEFT": Way(torch.float32),
    "PEFT, adapters in bfloat16": Way(torch.bfloat16),
    "PEFT, Liger's kernels": Way(torch.bfloat16, uses_liger=True),
}
"""Ways that people run PEFT: as it comes, as TRL casts it over a quantized base, and with kernels that fuse."""


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """The base asked for and one of 1B, each in both precisions, against every way that is installed."""
    small = replace(setting, hidden=min(ONE_B[0], setting.hidden), layers=min(ONE_B[1], setting.layers))
    shapes = {(each.hidden, each.layers): each for each in (setting, small)}.values()
    peaks = Peaks.of(setting.device, compute_dtype(run_spec(setting, ROWS, TOKENS), setting.device.type))
    results: dict[str, Any] = {"goal": 1.0, "peaks": peaks.told_as, "cases": {}}
    for shape in (replace(shape, bits=bits) for shape in shapes for bits in (4, 16)):
        works = {name: partial(_against_peft, shape, peaks, name, way) for name, way in WAYS.items() if _runs(way)}
        for what, work in (works | {CHOICES: partial(_choices, shape, peaks)}).items():
            name = f"{shape.base_name}: {what}"
            results["cases"][name] = attempt(shape, name, work)
            yield results


def render(results: Mapping[str, Any]) -> str:
    """A line for each side of each case."""
    head = (
        *("base: against", "side", "s a step", "tokens/s", "of matrix peak", "of the floor's speed"),
        *("raylora is faster by", "a step's memory, MB"),
    )
    rows = []
    for name, case in results["cases"].items():
        for side, of_side in case.get("sides", {}).items():
            rows.append(
                (
                    name,
                    side,
                    spread(of_side["step_s"], "{:.3f}"),
                    spread(of_side["tokens_per_s"], "{:.0f}"),
                    percent(of_side["of_matrix_peak"]),
                    percent(of_side["of_floor"]),
                    spread(case["faster"][side]) if side in case["faster"] else "",
                    megabytes(of_side["step_bytes"]),
                )
            )
        if "sides" not in case:
            rows.append((name, "", why_not(case), *("" for _ in head[3:])))
    return (
        f"{ROWS} x {TOKENS} tokens a step, LoRA r=16 on all linear layers. PEFT runs under autocast, its adapters in "
        f"float32 as ours are, and in bfloat16; Liger's kernels where they are installed. The goal is "
        f"{results['goal']} times the fastest. {Peaks.told(results).words} Of the matrix peak is the utilisation by "
        "the model's operations, each counted once. A step's memory is its peak above what lies before it. Choices are "
        f"raylora's own, each against its default.\n\n{table(head, rows)}"
    )


def _against_fastest(base: str) -> Callable[[Mapping[str, Any]], str | None]:
    def found(results: Mapping[str, Any]) -> str | None:
        times = [
            faster["median"]
            for name, case in results["cases"].items()
            if name.startswith(base) and not name.endswith(CHOICES)
            for faster in case.get("faster", {}).values()
        ]
        return at_least(min(times), results["goal"]) if times else None

    return found


def _bases() -> list[str]:
    shapes = (
        Setting(torch.device("cpu"), *shape, turns=1, bits=bits) for shape in (ONE_B, SEVEN_B) for bits in (16, 4)
    )
    return [shape.base_name for shape in shapes]


@contextmanager
def _one_chunk_of_logits(trainee: Trainee) -> Iterator[None]:
    """All logits at once."""
    before = linear_cross_entropy.CHUNK_BYTES
    linear_cross_entropy.CHUNK_BYTES = 2**40
    try:
        yield
    finally:
        linear_cross_entropy.CHUNK_BYTES = before


Choice = Callable[[Trainee], AbstractContextManager[None]]
OTHERWISE: dict[str, Choice] = {"activations kept": kept_activations, "logits in one chunk": _one_chunk_of_logits}

SCRIPT = Script(
    "solo",
    "One adapter against PEFT and transformers",
    "tokens a second and the utilisation of the matrix peak by one adapter, against PEFT with transformers",
    (
        *(
            Claim(
                f"{base}: at least 1.0 times as many tokens a second as the fastest of the others",
                _against_fastest(base),
            )
            for base in _bases()
        ),
        *(
            Claim(
                f"{choice}: how many times as fast as the default",
                of_each_case("faster", choice, lambda times: 1 / times),
            )
            for choice in OTHERWISE
        ),
    ),
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


def _runs(way: Way) -> bool:
    return not way.uses_liger or (torch.cuda.is_available() and liger.is_installed())


def _against_peft(setting: Setting, peaks: Peaks, name: str, way: Way) -> dict[str, Any]:
    """Two sides on the same weights and rows."""
    config, spec = llama_config(setting.hidden, setting.layers), run_spec(setting, ROWS, TOKENS)
    trainee = _ours(setting)
    theirs = PeftSide(config, spec, setting.device, way)
    sides: dict[str, Callable[[int], float]] = {
        OURS: lambda turn: losses(trainee, _shares(turn))[0],
        name: lambda turn: theirs.step(_shares(turn)[0].batches[0]),
    }
    return _told(trainee, peaks, _take_turns(trainee, sides, setting.turns))


def _choices(setting: Setting, peaks: Peaks) -> dict[str, Any]:
    """The default and what one may choose instead, on one base."""
    trainee = _ours(setting)

    def side(choice: Choice, turn: int) -> float:
        with choice(trainee):
            return losses(trainee, _shares(turn))[0]

    choices: dict[str, Choice] = {OURS: lambda trainee: nullcontext(), **OTHERWISE}
    sides = {name: partial(side, choice) for name, choice in choices.items()}
    return _told(trainee, peaks, _take_turns(trainee, sides, setting.turns, starts_anew=True))


def _ours(setting: Setting) -> Trainee:
    config, spec = llama_config(setting.hidden, setting.layers), run_spec(setting, ROWS, TOKENS)
    trainee = random_trainee(config, spec, setting.device)
    trainee.admit(0, spec)
    return trainee


def _take_turns(
    trainee: Trainee, sides: Mapping[str, Callable[[int], float]], num_turns: int, starts_anew: bool = False
) -> dict[str, Turns]:
    """One side after the other; the first step, of adapters at their start, warms up, and its losses agree."""
    first = {}
    for name, side in sides.items():
        if starts_anew:
            trainee.release(0)
            trainee.admit(0, trainee.spec)
        first[name] = side(0)
    if max(first.values()) - min(first.values()) > SAME_LOSS[trainee.model.dtype]:
        raise NotTheSameError(f"the first losses are {first}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    taken = dict.fromkeys(sides, 0)
    for turn in range(1, 1 + num_turns):
        for name, side in sides.items():
            with PeakMemory(trainee.device) as memory:
                seconds[name].append(timed(trainee.device, partial(side, turn)))
            taken[name] = max(taken[name], memory.peak_bytes - memory.start_bytes)
    return {name: Turns(seconds[name], taken[name]) for name in sides}


def _told(trainee: Trainee, peaks: Peaks, sides: Mapping[str, Turns]) -> dict[str, Any]:
    flops, floor_s = step_flops(trainee, _shares(0)), step_floor_s(peaks, trainee, _shares(0))
    return {
        "flops": flops,
        "floor_s": floor_s,
        "faster": {name: ratios(side.seconds, sides[OURS].seconds) for name, side in sides.items() if name != OURS},
        "sides": {
            name: {
                "step_s": summary(side.seconds),
                "tokens_per_s": summary([ROWS * TOKENS / seconds for seconds in side.seconds]),
                "of_matrix_peak": summary([flops / seconds / peaks.flops_per_s for seconds in side.seconds]),
                "of_floor": summary([floor_s / seconds for seconds in side.seconds]),
                "step_bytes": side.step_bytes,
            }
            for name, side in sides.items()
        },
    }


def _shares(turn: int) -> list[Share]:
    return shares_of(random_rows(TOKENS), 1, turn, ROWS)


if __name__ == "__main__":
    SCRIPT.run()
