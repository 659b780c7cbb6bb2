"""`python -m benchmarks.gpu.low_rank`: the slots' own products on one layer: one by one, batched, or grouped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.attempt import NotTheSameError, attempt, why_not
from benchmarks.gpu.claim import Claim, of_each_case
from benchmarks.gpu.device import timed
from benchmarks.gpu.layers import TOLERANCES
from benchmarks.gpu.random_base import SEVEN_B, SPREAD, dtype_on
from benchmarks.gpu.script import Script
from benchmarks.gpu.setting import Setting
from benchmarks.summaries import ratios, summary
from benchmarks.tables import spread, table

ONE_BY_ONE, BATCHED, GROUPED = "slot by slot", "batched", "grouped"
CALLS = {"cuda": 20, "cpu": 2}
"""In a row, for one figure."""


@dataclass(frozen=True)
class Case:
    """Slots on one layer.

    Args:
        words: For people.
        ranks: Of each slot, multiples of 8: grouped products ask for rows of 16 bytes.
        tokens: Of each slot, in the same order.
    """

    words: str
    ranks: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def are_alike(self) -> bool:
        """Whether batched products can take them."""
        return len({*self.ranks}) == len({*self.tokens}) == 1


CASES = (
    Case("8 alike, 512 tokens each", (16,) * 8, (512,) * 8),
    Case("32 alike, 128 tokens each", (16,) * 32, (128,) * 32),
    Case("8 with ranks 8 to 64", (8, 16, 32, 64) * 2, (512,) * 8),
    Case("8 with 64 to 960 tokens", (16,) * 8, (64, 192, 320, 448, 576, 704, 832, 960)),
)


@dataclass(frozen=True)
class Work:
    """What one case multiplies; all of it gets a gradient.

    Args:
        tokens: Of each slot.
        x_NI: Rows of all slots, one slot after the other.
        a: Each slot's (R, I).
        b: Each slot's (O, R).
    """

    tokens: tuple[int, ...]
    x_NI: Tensor
    a: Sequence[Tensor]
    b: Sequence[Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        """What gets a gradient."""
        return [self.x_NI, *self.a, *self.b]

    def double(self) -> Work:
        """The same in float64."""
        copies = [leaf.detach().double().requires_grad_() for leaf in self.leaves]
        return Work(self.tokens, copies[0], copies[1 : 1 + len(self.a)], copies[1 + len(self.a) :])


def one_by_one(work: Work) -> Tensor:
    """Two products a slot."""
    parts = zip(work.x_NI.split(work.tokens), work.a, work.b, strict=True)
    return torch.cat([x_TI @ a_RI.t() @ b_OR.t() for x_TI, a_RI, b_OR in parts])


def batched(work: Work) -> Tensor:
    """Two products for all, as raylora's stacks have them; slots of one rank and one number of tokens."""
    x_KTI = work.x_NI.unflatten(0, (len(work.tokens), -1))
    return (x_KTI @ torch.stack([*work.a]).mT @ torch.stack([*work.b]).mT).flatten(0, 1)


def grouped(work: Work) -> Tensor:
    """Two products for all, of any number of tokens, with ranks padded by zeros to the largest."""
    most = max(len(a_RI) for a_RI in work.a)
    a_KRI = torch.stack([functional.pad(a_RI, (0, 0, 0, most - len(a_RI))) for a_RI in work.a])
    b_KOR = torch.stack([functional.pad(b_OR, (0, most - b_OR.shape[1])) for b_OR in work.b])
    ends = torch.tensor([*accumulate(work.tokens)], dtype=torch.int32, device=work.x_NI.device)
    h_NR = functional.grouped_mm(work.x_NI, a_KRI.mT, offs=ends)
    return functional.grouped_mm(h_NR, b_KOR.mT, offs=ends)


SIDES: dict[str, Callable[[Work], Tensor]] = {ONE_BY_ONE: one_by_one, BATCHED: batched, GROUPED: grouped}


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """Every case, by every side that takes it."""
    dtype = dtype_on(setting.device)
    results: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "cases": {}}
    for case in CASES:
        results["cases"][case.words] = attempt(setting, case.words, partial(_case, setting, case, dtype))
        yield results


def render(results: Mapping[str, Any]) -> str:
    """A line for each side of each case."""
    rows = []
    for name, case in results["cases"].items():
        if "sides" not in case:
            rows.append((name, "", why_not(case), ""))
        for side, seconds in case.get("sides", {}).items():
            faster = case["is_faster_by"].get(side)
            microseconds = {key: each * 1e6 for key, each in seconds.items()}
            rows.append((name, side, spread(microseconds, "{:.0f}"), "" if faster is None else spread(faster)))
    return (
        f"A layer as wide as the base, in {results['dtype']}: forward, and backward to rows and matrices, as called. "
        "Matrices are brought next to each other, and padded, in every pass.\n\n"
        + table(("slots", "products", "µs", "faster than slot by slot by"), rows)
    )


SCRIPT = Script(
    "low_rank",
    "The slots' own products",
    "what slots add on a layer, slot by slot, by batched and by grouped products: which of them stacks should use",
    tuple(
        Claim(f"{side} products: how many times as fast as slot by slot", of_each_case("is_faster_by", side))
        for side in (BATCHED, GROUPED)
    ),
    measure,
    render,
    *SEVEN_B,
    turns=5,
)


def _case(setting: Setting, case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """Every side, compared with float64 and then timed in turns."""
    work, sides = _drawn(setting, case, dtype), {**SIDES}
    if not case.are_alike:
        del sides[BATCHED]
    gradient_NO = torch.randn(sum(case.tokens), setting.hidden, device=setting.device).to(dtype)
    wanted = _passes(one_by_one, work.double(), gradient_NO.double())
    off = {name: _off(_passes(side, work, gradient_NO), wanted) for name, side in sides.items()}
    if not max(off.values()) <= TOLERANCES[dtype]:
        raise NotTheSameError(f"results are off by {off}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(setting.turns):
        for name, side in sides.items():
            passes = partial(_passes, side, work, gradient_NO)
            seconds[name].append(timed(setting.device, passes, CALLS[setting.device.type]))
    return {
        "off": off,
        "sides": {name: summary(of_side) for name, of_side in seconds.items()},
        "is_faster_by": {
            name: ratios(seconds[ONE_BY_ONE], of_side) for name, of_side in seconds.items() if name != ONE_BY_ONE
        },
    }


def _drawn(setting: Setting, case: Case, dtype: torch.dtype) -> Work:
    def leaf(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=setting.device).normal_(0.0, SPREAD).requires_grad_()

    a, b = ([leaf(rank, setting.hidden) for rank in case.ranks], [leaf(setting.hidden, rank) for rank in case.ranks])
    return Work(case.tokens, leaf(sum(case.tokens), setting.hidden), a, b)


def _passes(side: Callable[[Work], Tensor], work: Work, gradient_NO: Tensor) -> list[Tensor]:
    """What comes forward, and all gradients."""
    y_NO = side(work)
    return [y_NO.detach(), *torch.autograd.grad(y_NO, work.leaves, gradient_NO)]


def _off(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest error, as a part of what was wanted."""
    return max(float((one.double() - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True))


if __name__ == "__main__":
    SCRIPT.run()
