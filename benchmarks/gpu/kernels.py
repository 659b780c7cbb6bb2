"""`python -m benchmarks.gpu.kernels`: the product with a 4-bit weight at few rows, against the bytes it must move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.device import copy_rate, square_rate, timed
from benchmarks.gpu.random_base import INNER_PER_HIDDEN, SEVEN_B, SPREAD, linear_4bit
from benchmarks.gpu.setting import Script, Setting
from benchmarks.summaries import summary
from benchmarks.tables import table
from raylora.model.dtype import compute_dtype
from raylora.model.frozen_linear import FrozenLinear, QuantLinear
from raylora.model.quant import QuantFormat
from raylora.spec.run import RunSpec

ROWS = (1, 8, 64, 512, 4096)
REPEATS = {"cuda": 50, "cpu": 2}


def measure(setting: Setting) -> dict[str, Any]:
    """Every shape of a block at every number of rows, by every layer."""
    device = setting.device
    dtype = compute_dtype(RunSpec.model_validate({"base_model": "x", "datasets": [{"path": "x.jsonl"}]}), device.type)
    inner = round(setting.hidden * INNER_PER_HIDDEN)
    peaks = {"flops_per_s": square_rate(device, dtype), "bytes_per_s": copy_rate(device)}
    shapes = [(setting.hidden, setting.hidden), (inner, setting.hidden), (setting.hidden, inner)]
    cases = {f"{shape[0]} x {shape[1]}": _shape(setting, shape, dtype, peaks) for shape in shapes}
    return {"dtype": str(dtype).removeprefix("torch."), "peaks": peaks, "cases": cases}


def render(results: Mapping[str, Any]) -> str:
    """A line for each shape and number of rows."""
    sides = list(next(iter(next(iter(results["cases"].values())).values()))["times_floor"])
    rows = [
        (
            shape,
            num_rows,
            f"{case['floor_s'] * 1e6:.0f}",
            *(f"{case['times_floor'][side]['median']:.1f}" for side in sides),
        )
        for shape, by_rows in results["cases"].items()
        for num_rows, case in by_rows.items()
    ]
    peaks = results["peaks"]
    return (
        f"Compute in {results['dtype']}. Measured peaks: {peaks['flops_per_s'] / 1e12:.1f} TFLOP/s of large square "
        f"products, {peaks['bytes_per_s'] / 1e9:.0f} GB/s of copies. The floor is the longer of a product's operations "
        "and its bytes (packed weight, rows in, rows out) at these peaks; the columns tell how many times the floor a "
        "layer takes. The layer that is not quantized moves four times the weight.\n\n"
        + table(("weight", "rows", "floor, µs", *sides), rows)
    )


SCRIPT = Script(
    "kernels",
    "The product with a 4-bit weight",
    "bytes moved by the 4-bit product at few rows, against the floor",
    measure,
    render,
    *SEVEN_B,
    turns=5,
)


def _shape(
    setting: Setting, shape: tuple[int, int], dtype: torch.dtype, peaks: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    weight_OI = torch.empty(shape, dtype=dtype, device=setting.device).normal_(0.0, SPREAD)
    layers, packed_bytes = _layers(weight_OI, dtype)
    found = {}
    for num_rows in ROWS:
        x_NI = torch.randn(num_rows, shape[1], device=setting.device).to(dtype)
        moved = packed_bytes + dtype.itemsize * num_rows * (shape[0] + shape[1])
        floor_s = max(moved / peaks["bytes_per_s"], 2 * num_rows * shape[0] * shape[1] / peaks["flops_per_s"])
        seconds = {name: _turns(setting, partial(layer, x_NI)) for name, layer in layers.items()}
        found[str(num_rows)] = {
            "moved_bytes": moved,
            "floor_s": floor_s,
            "times_floor": {name: summary([each / floor_s for each in turns]) for name, turns in seconds.items()},
        }
    return found


def _layers(weight_OI: torch.Tensor, dtype: torch.dtype) -> tuple[dict[str, nn.Module], int]:
    """The weight as each layer holds it, and the bytes of ours."""
    plain = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta", dtype=dtype)
    plain.weight = nn.Parameter(weight_OI, requires_grad=False)
    ours = QuantLinear(plain, QuantFormat("nf4", double_quant=True, storage=dtype))
    ours.packed = nn.Parameter(ours.format.pack(weight_OI), requires_grad=False)
    layers = {"raylora": ours, "bitsandbytes": linear_4bit(weight_OI.clone()), "not quantized": FrozenLinear(plain)}
    return layers, ours.packed.nbytes


@torch.no_grad()
def _turns(setting: Setting, product: Callable[[], Any]) -> list[float]:
    product()
    return [timed(setting.device, product, REPEATS[setting.device.type]) for _ in range(setting.turns)]


if __name__ == "__main__":
    SCRIPT.run()
