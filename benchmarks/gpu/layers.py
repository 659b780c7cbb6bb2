"""One weight as every layer that multiplies by it holds it; copies of each, so that a cache does not answer for memory.

A weight enters; by name, layers that compute the same function leave. Called by `kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.gpu.fused_product import product_of_row
from benchmarks.gpu.random_base import linear_4bit
from benchmarks.workload import LORA_ALPHA, LORA_R
from raylora.model.adapter.low_rank import LowRank
from raylora.model.adapter.site import Site
from raylora.model.adapter.slot import Slot
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.frozen_linear import FrozenLinear, QuantLinear
from raylora.model.base.quant import QuantFormat
from raylora.model.rows.route import Route, Span

OURS, PLAIN, TRITON = "raylora", "not quantized", "triton"
BITSANDBYTES, ON_OUR_ROW, ADAPTED = "bitsandbytes", "bitsandbytes on our row", f"raylora, adapter r={LORA_R}"
ROTATED_BYTES = {"cuda": 2**28, "cpu": 0}
"""Of the copies of a packed weight that take turns: several times what a GPU's cache holds."""

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layers:
    """Copies of every layer.

    Args:
        by_name: As many products of each.
        weight_OI: What all of them multiply by, as the quantized ones give it.
        packed_bytes: Of one packed weight.
    """

    by_name: dict[str, list[Product]]
    weight_OI: Tensor
    packed_bytes: int


def layers_of(drawn_OI: Tensor) -> Layers:
    """Every layer of a weight.

    Args:
        drawn_OI: Before quantization, in the compute dtype, on the device.
    """
    form = QuantFormat("nf4", double_quant=True, storage=drawn_OI.dtype)
    row = form.pack(drawn_OI)
    weight_OI = form.unpack(row, (drawn_OI.shape[0], drawn_OI.shape[1]), drawn_OI.dtype)
    num_copies = max(1, math.ceil(ROTATED_BYTES[drawn_OI.device.type] / row.nbytes))
    ours = [_quantized(drawn_OI, form, row.clone()) for _ in range(num_copies)]
    by_name: dict[str, list[Product]] = {
        OURS: [*ours],
        ADAPTED: [_adapted(_quantized(drawn_OI, form, layer.packed)) for layer in ours],
        BITSANDBYTES: [linear_4bit(drawn_OI.clone()) for _ in range(num_copies)],
        ON_OUR_ROW: [_on_our_row(layer) for layer in ours],
        PLAIN: [FrozenLinear(_linear(weight_OI.clone())) for _ in range(num_copies)],
    }
    if drawn_OI.is_cuda and find_spec("triton") is not None:
        by_name[TRITON] = [_by_triton(layer) for layer in ours]
    return Layers(by_name, weight_OI, row.nbytes)


def _quantized(drawn_OI: Tensor, form: QuantFormat, row: Tensor) -> QuantLinear:
    layer = QuantLinear(_linear(drawn_OI), form)
    layer.packed = nn.Parameter(row, requires_grad=False)
    return layer


def _linear(weight_OI: Tensor) -> nn.Linear:
    plain = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta", dtype=weight_OI.dtype)
    plain.weight = nn.Parameter(weight_OI, requires_grad=False)
    return plain


def _adapted(layer: QuantLinear) -> QuantLinear:
    """With an adapter at its start, whose B is zero: the same function."""
    route = Route(spans=(Span(0),))
    site = Site("layer", layer, layer.packed.device, BaseWeights(layer))
    LowRank(site, route).admit(0, Slot(LORA_R, LORA_ALPHA, dropout=0.0, seed=0))
    return layer


def _on_our_row(layer: QuantLinear) -> Product:
    return lambda x_NI: product_of_row(x_NI, layer, layer.packed)


def _by_triton(layer: QuantLinear) -> Product:
    from benchmarks.gpu.triton_product import triton_product  # Triton is not installed everywhere

    return lambda x_NI: triton_product(x_NI, layer)


def takes(name: str, num_rows: int) -> bool:
    """Whether a layer is made for so many rows."""
    if name != TRITON:
        return True
    from benchmarks.gpu.triton_product import MOST_ROWS

    return num_rows <= MOST_ROWS


TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""How far a product may be from that in float64, as a part of it, by its dtype."""
