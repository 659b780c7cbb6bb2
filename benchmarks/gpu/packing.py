"""`python -m benchmarks.gpu.packing`: a pack of adapters against each alone, on one CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from benchmarks.flops import step_flops
from benchmarks.gpu.attempt import NotTheSameError, attempt, told, why_not
from benchmarks.gpu.claim import Claim, at_least, held
from benchmarks.gpu.device import forget, timed
from benchmarks.gpu.material import SAME_LOSS, losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import SEVEN_B, THREE_B, llama_config, random_trainee
from benchmarks.gpu.roofline import Peaks, step_floor_s
from benchmarks.gpu.script import Script
from benchmarks.gpu.setting import Setting
from benchmarks.summaries import ratios, summary
from benchmarks.tables import megabytes, percent, spread, table
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.model.base.dtype import compute_dtype
from raylora.train.memory import PeakMemory
from raylora.train.prediction.estimate import estimate_pack
from raylora.train.prediction.pack_memory import PackMemory
from raylora.train.step import Share
from raylora.train.trainee import Trainee

NEVER_BELOW = 0.97
"""However much the slots have to compute."""


@dataclass(frozen=True)
class Case:
    """What is compared.

    Args:
        rows: Of each slot's micro-batch.
        tokens: Of a row.
        slots: In the pack.
        goal: How many times faster the pack is to be, on the base that the goals are for.
    """

    rows: int
    tokens: int
    slots: int
    goal: float

    @property
    def name(self) -> str:
        """Short words."""
        return f"{self.slots} slots, {self.rows} x {self.tokens} tokens"


CASES = (Case(1, 512, 8, 2.5), Case(2, 512, 8, 1.6), Case(4, 512, 8, 1.1), Case(1, 128, 32, 8.0))


class Base:
    """A base that is made when the first case asks for it.

    Args:
        setting: Says which.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting, self.start_bytes = setting, 0
        self.config = llama_config(setting.hidden, setting.layers)

    @cached_property
    def trainee(self) -> Trainee:
        """The base without adapters."""
        forget(self.setting.device)  # the base before, which would count as there from the start
        with PeakMemory(self.setting.device) as memory:
            spec = run_spec(self.setting, 1, max(case.tokens for case in CASES))
            trainee = random_trainee(self.config, spec, self.setting.device)
        self.start_bytes = memory.start_bytes
        return trainee


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """All cases on the base asked for and one of 3B, each in NF4 and not quantized; the goals are for the first."""
    dtype = compute_dtype(run_spec(setting, 1, CASES[0].tokens), setting.device.type)
    peaks = Peaks.of(setting.device, dtype)
    results: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "peaks": peaks.told_as,
        "never_below": NEVER_BELOW,
        "cases": {},
    }
    for number, shape in enumerate(bases_of(setting)):
        base = Base(shape)
        for case in CASES:
            name = f"{shape.base_name}; {case.name}"
            found = attempt(setting, name, partial(_compare, base, case, peaks))
            results["cases"][name] = found | ({"goal": case.goal} if number == 0 else {})
            yield results


def bases_of(setting: Setting) -> list[Setting]:
    """The base asked for, and a smaller one, in both precisions, the asked one's first."""
    small = replace(setting, hidden=min(THREE_B[0], setting.hidden), layers=min(THREE_B[1], setting.layers))
    shapes = {(each.hidden, each.layers): each for each in (setting, small)}.values()
    return [replace(shape, bits=bits) for bits in (setting.bits, 20 - setting.bits) for shape in shapes]


def render(results: Mapping[str, Any]) -> str:
    """A line for each case."""
    head = (
        *("base; micro-batch", "alone, s", "pack, s", "pack is faster by", "goal", "by the roofline"),
        *("of matrix peak", "of the floor's speed", "peak, MB", "predicted"),
    )
    rows = [
        (
            name,
            told(case, "alone_s", lambda seconds: spread(seconds, "{:.3f}")) or why_not(case),
            told(case, "pack_s", lambda seconds: spread(seconds, "{:.3f}")),
            told(case, "pack_is_faster_by", spread),
            told(case, "goal"),
            told(case, "floors_apart_by", lambda ratio: f"{ratio:.2f}"),
            told(case, "of_matrix_peak", percent),
            told(case, "of_floor", percent),
            told(case, "pack_peak_bytes", megabytes),
            told(case, "predicted_bytes", megabytes),
        )
        for name, case in results["cases"].items()
    ]
    return (
        f"Computed in {results['dtype']}. {Peaks.told(results).words} A step's floor is the longer of its operations "
        "and its fewest bytes (the base as it is held, read forward and backward, and what trains) at these peaks; the "
        "roofline's own ratio is that of the floors of all slots alone and of the pack. Operations are counted without "
        f"what is recomputed.\n\n{table(head, rows)}"
    )


def _faster(case: Case) -> Callable[[Mapping[str, Any]], str | None]:
    """What the first base's results say of a case."""

    def found(results: Mapping[str, Any]) -> str | None:
        of_first = [each for name, each in results["cases"].items() if "goal" in each and name.endswith(case.name)]
        return at_least(_median(of_first[0]), case.goal) if of_first else None

    return found


def _median(case: Mapping[str, Any]) -> float | None:
    return case["pack_is_faster_by"]["median"] if "pack_is_faster_by" in case else None


def _never_slower(results: Mapping[str, Any]) -> str | None:
    medians = [median for case in results["cases"].values() if (median := _median(case)) is not None]
    if not medians:
        return None
    return held(min(medians) >= results["never_below"], f"{min(medians):.2f} at least, {len(medians)} cases")


def _others(results: Mapping[str, Any]) -> str | None:
    medians = [median for case in results["cases"].values() if "goal" not in case and (median := _median(case))]
    return f"{min(medians):.2f} to {max(medians):.2f}, {len(medians)} cases" if medians else None


PUBLISHED = "; published by PLoRA, of throughput at batch 1: up to 12.8, on QLoRA 7B 4.7"

SCRIPT = Script(
    "packing",
    "A pack of adapters against each alone",
    "a pack against each of its slots alone, on bases of 7B and 3B shape, in NF4 and not quantized",
    (
        *(
            Claim(
                f"{case.name}, on a 7B-shaped base in NF4: at least {case.goal:g} times as fast as each alone"
                f"{PUBLISHED if case.slots > 8 else ''}",
                _faster(case),
            )
            for case in CASES
        ),
        Claim(f"never below {NEVER_BELOW} times, on any base", _never_slower),
        Claim("the same on a 3B-shaped base, and on both in bfloat16", _others),
    ),
    measure,
    render,
    *SEVEN_B,
    turns=5,
)


def _compare(base: Base, case: Case, peaks: Peaks) -> dict[str, Any]:
    """Both sides on the same slots, in turns; each side's first step, on slots at their start, is its warm-up."""
    trainee, rows, num_turns = base.trainee, random_rows(case.tokens), base.setting.turns
    sides: dict[str, Callable[[int], list[float]]] = {
        "alone": lambda turn: [loss for share in _shares(case, rows, turn) for loss in losses(trainee, [share])],
        "pack": lambda turn: losses(trainee, _shares(case, rows, turn)),
    }
    first = {name: _fresh(trainee, case, side) for name, side in sides.items()}
    apart = max(abs(one - other) for one, other in zip(first["alone"], first["pack"], strict=True))
    if apart > SAME_LOSS[trainee.model.dtype]:
        raise NotTheSameError(f"the first losses differ by {apart}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peak_bytes: dict[str, int] = dict.fromkeys(sides, 0)
    for turn in range(1, 1 + num_turns):
        for name, side in sides.items():
            with PeakMemory(trainee.device) as memory:
                seconds[name].append(timed(trainee.device, partial(side, turn)))
            peak_bytes[name] = max(peak_bytes[name], memory.peak_bytes - base.start_bytes)
    shares = _shares(case, rows, 0)
    flops, floor_s = step_flops(trainee, shares), step_floor_s(peaks, trainee, shares)
    alone_floor_s = sum(step_floor_s(peaks, trainee, [share]) for share in shares)
    release_all(trainee)
    spec = run_spec(base.setting, case.rows, case.tokens)
    predicted = PackMemory(spec, partial(estimate_pack, config=base.config, device=trainee.device.type))
    return {
        "alone_s": summary(seconds["alone"]),
        "pack_s": summary(seconds["pack"]),
        "pack_is_faster_by": ratios(seconds["alone"], seconds["pack"]),
        "flops": flops,
        "floor_s": floor_s,
        "floors_apart_by": alone_floor_s / floor_s,
        "of_matrix_peak": summary([flops / taken / peaks.flops_per_s for taken in seconds["pack"]]),
        "of_floor": summary([floor_s / taken for taken in seconds["pack"]]),
        "alone_peak_bytes": peak_bytes["alone"],
        "pack_peak_bytes": peak_bytes["pack"],
        "predicted_bytes": predicted.at(case.slots).peak_bytes,
        "first_losses_apart": apart,
    }


def _shares(case: Case, rows: TokenisedRows, turn: int) -> list[Share]:
    return shares_of(rows, case.slots, turn, case.rows)


def _fresh(trainee: Trainee, case: Case, side: Callable[[int], list[float]]) -> list[float]:
    """Losses of a side's step on new adapters, the same for each side."""
    admit_all(trainee, case.slots)
    return side(0)


def admit_all(trainee: Trainee, num_slots: int) -> None:
    """New adapters of different seeds in so many slots, and none in any other.

    Args:
        trainee: The base.
        num_slots: From slot 0.
    """
    release_all(trainee)
    for slot in range(num_slots):
        trainee.admit(slot, trainee.spec.model_copy(update={"seed": slot}))


def release_all(trainee: Trainee) -> None:
    """Forget all adapters."""
    for slot in list(trainee.steppers):
        trainee.release(slot)


if __name__ == "__main__":
    SCRIPT.run()
