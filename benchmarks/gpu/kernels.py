"""`python -m benchmarks.gpu.kernels`: the product with a 4-bit weight at few rows, against the bytes it must move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.attempt import NotTheSameError, attempt, why_not
from benchmarks.gpu.claim import Claim
from benchmarks.gpu.device import call_all, replayed, timed
from benchmarks.gpu.layers import (
    ADAPTED,
    BITSANDBYTES,
    ON_OUR_ROW,
    OURS,
    PLAIN,
    TOLERANCES,
    TRITON,
    Layers,
    Product,
    layers_of,
    takes,
)
from benchmarks.gpu.random_base import SEVEN_B, SPREAD, dtype_on, inner_size
from benchmarks.gpu.roofline import Peaks
from benchmarks.gpu.script import Script
from benchmarks.gpu.setting import Setting
from benchmarks.summaries import summary
from benchmarks.tables import table

ROWS = (1, 8, 64, 512, 4096)
FEW = 64
"""Rows of generation and of very small micro-batches."""
CALLS = {"cuda": 64, "cpu": 2}
"""At least, in a row; all copies of a layer take turns."""
CALLED = "raylora, as called"


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """Every shape of a block at every number of rows, by every layer."""
    device = setting.device
    dtype = dtype_on(device)
    inner, peaks = inner_size(setting.hidden), Peaks.of(device, dtype)
    results: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "peaks": peaks.told_as,
        "cases": {},
    }
    for shape in ((setting.hidden, setting.hidden), (inner, setting.hidden), (setting.hidden, inner)):
        drawn_OI = torch.empty(shape, dtype=dtype, device=device).normal_(0.0, SPREAD)
        layers = layers_of(drawn_OI)
        for num_rows in ROWS:
            name = f"{shape[0]} x {shape[1]}, {num_rows} rows"
            results["cases"][name] = attempt(setting, name, partial(_case, setting, layers, num_rows, peaks))
            yield results


def render(results: Mapping[str, Any]) -> str:
    """A line for each shape and number of rows."""
    cases = results["cases"]
    sides = list(dict.fromkeys(side for case in cases.values() for side in case.get("times_floor", {})))
    rows = [
        (
            name,
            f"{case['floor_s'] * 1e6:.1f}" if "floor_s" in case else why_not(case),
            *(_times(case, side) for side in sides),
        )
        for name, case in cases.items()
    ]
    return (
        f"Compute in {results['dtype']}. {Peaks.told(results).words} The floor is the longer of a product's operations "
        "and its bytes (packed weight, rows in, rows out) at these peaks; the columns tell how many times the floor a "
        "layer takes, recorded as a CUDA graph so that Python and launches are no part of it, with copies of the "
        "weight in turns so that no cache holds it. The layer that is not quantized moves four times the weight.\n\n"
        + table(("weight, rows", "floor, µs", *sides), rows)
    )


def _times(case: Mapping[str, Any], side: str) -> str:
    found = case.get("times_floor", {}).get(side)
    return "" if found is None else f"{found['median']:.1f}"


def _at_few_rows(side: str) -> Callable[[Mapping[str, Any]], str | None]:
    """Range of a layer over what has few rows."""

    def found(results: Mapping[str, Any]) -> str | None:
        of_few = [case for case in results["cases"].values() if case.get("num_rows", FEW + 1) <= FEW]
        times = [case["times_floor"][side]["median"] for case in of_few if side in case["times_floor"]]
        return f"{min(times):.1f} to {max(times):.1f} times the floor" if times else None

    return found


def _adapter(results: Mapping[str, Any]) -> str | None:
    parts = [
        case["times_floor"][ADAPTED]["median"] / case["times_floor"][OURS]["median"]
        for case in results["cases"].values()
        if case.get("num_rows", 0) > FEW
    ]
    return f"{min(parts):.2f} to {max(parts):.2f} times the layer without" if parts else None


SCRIPT = Script(
    "kernels",
    "The product with a 4-bit weight",
    "the 4-bit product at few and at many rows, by raylora, bitsandbytes and Triton, against its floor",
    (
        Claim(f"raylora's layer, which unpacks the whole weight, at up to {FEW} rows", _at_few_rows(OURS)),
        Claim("bitsandbytes' layer there", _at_few_rows(BITSANDBYTES)),
        Claim("bitsandbytes' product behind raylora's layer, on its row as it lies", _at_few_rows(ON_OUR_ROW)),
        Claim("a Triton kernel behind the same layer (benchmarks/gpu/triton_product.py)", _at_few_rows(TRITON)),
        Claim("the layer that is not quantized", _at_few_rows(PLAIN)),
        Claim(
            "what an adapter adds forward at more rows: the most that a kernel which fuses the two could save",
            _adapter,
        ),
    ),
    measure,
    render,
    *SEVEN_B,
    turns=5,
)


@torch.no_grad()
def _case(setting: Setting, layers: Layers, num_rows: int, peaks: Peaks) -> dict[str, Any]:
    """Every layer, compared and then timed."""
    weight_OI = layers.weight_OI
    x_NI = torch.randn(num_rows, weight_OI.shape[1], device=setting.device).to(weight_OI.dtype)
    moved = layers.packed_bytes + weight_OI.element_size() * num_rows * sum(weight_OI.shape)
    floor_s = peaks.floor_s(2 * num_rows * weight_OI.numel(), moved)
    taken = {name: products for name, products in layers.by_name.items() if takes(name, num_rows)}
    wanted_NO = x_NI.double() @ weight_OI.double().t()
    off = {
        name: float((products[0](x_NI).double() - wanted_NO).norm() / wanted_NO.norm())
        for name, products in taken.items()
    }
    if not max(off.values()) <= TOLERANCES[weight_OI.dtype]:
        raise NotTheSameError(f"products are off by {off}")
    seconds = {name: _replays(setting, products, x_NI) for name, products in taken.items()}
    seconds[CALLED] = _calls(setting, taken[OURS], x_NI)
    return {
        "num_rows": num_rows,
        "moved_bytes": moved,
        "floor_s": floor_s,
        "off": off,
        "times_floor": {name: summary([each / floor_s for each in turns]) for name, turns in seconds.items()},
    }


def _in_turns(setting: Setting, products: Sequence[Product], x_NI: torch.Tensor) -> list[Callable[[], Any]]:
    """Calls of all copies, one after the other."""
    num_calls = max(CALLS[setting.device.type], len(products))
    return [partial(products[number % len(products)], x_NI) for number in range(num_calls)]


def _replays(setting: Setting, products: Sequence[Product], x_NI: torch.Tensor) -> list[float]:
    return replayed(setting.device, _in_turns(setting, products, x_NI), setting.turns)


def _calls(setting: Setting, products: Sequence[Product], x_NI: torch.Tensor) -> list[float]:
    calls = _in_turns(setting, products, x_NI)
    return [timed(setting.device, partial(call_all, calls)) / len(calls) for _ in range(setting.turns)]


if __name__ == "__main__":
    SCRIPT.run()
