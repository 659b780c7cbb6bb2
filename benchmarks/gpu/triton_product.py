"""A try: the product with a 4-bit row at few rows as one Triton kernel, which unpacks each weight where it multiplies.

bitsandbytes' own kernel for few rows is the one to beat, and `QuantLinear` (unpack all, then multiply) the oracle. The
values of a packed row lie two to a byte, the first in the upper half: even and odd inputs are multiplied apart. Called
by `kernels`, where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.base.quant import BLOCK, NESTED_BLOCK

MOST_ROWS = 64
"""Beyond, whole weights are worth unpacking."""
FEWEST_ROWS = 16
"""Of a product on a GPU's matrix units."""
OUTPUTS, INPUTS = 32, 128
"""Of a weight, that one program multiplies at a time; inputs are whole blocks of 64. Its tiles fit an A100."""


@triton.jit
def _product(
    x_ptr,
    values_ptr,
    scales_ptr,
    nested_ptr,
    offset_ptr,
    code_ptr,
    scale_code_ptr,
    y_ptr,
    num_rows,
    num_outputs,
    num_inputs,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
    NESTED_BLOCK: tl.constexpr,
):
    rows = tl.arange(0, ROWS)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    halves = tl.arange(0, INPUTS // 2)
    is_row, is_output = rows < num_rows, outputs < num_outputs
    offset = tl.load(offset_ptr)
    sums = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    for start in range(0, num_inputs, INPUTS):
        pairs = start // 2 + halves
        is_pair = pairs < num_inputs // 2
        place = outputs[:, None] * (num_inputs // 2) + pairs[None, :]
        there = is_output[:, None] & is_pair[None, :]
        packed = tl.load(values_ptr + place, mask=there, other=0).to(tl.int32)
        block = place // (BLOCK // 2)
        scale = tl.load(scale_code_ptr + tl.load(scales_ptr + block, mask=there, other=0).to(tl.int32))
        scale = scale * tl.load(nested_ptr + block // NESTED_BLOCK, mask=there, other=0.0) + offset
        x_place = x_ptr + rows[:, None] * num_inputs + 2 * pairs[None, :]
        x_there = is_row[:, None] & is_pair[None, :]
        even, odd = tl.load(x_place, mask=x_there, other=0.0), tl.load(x_place + 1, mask=x_there, other=0.0)
        first = (tl.load(code_ptr + (packed >> 4)) * scale).to(even.dtype)
        second = (tl.load(code_ptr + (packed & 15)) * scale).to(even.dtype)
        sums += tl.dot(even, tl.trans(first), input_precision="ieee")
        sums += tl.dot(odd, tl.trans(second), input_precision="ieee")
    y_place = y_ptr + rows[:, None] * num_outputs + outputs[None, :]
    tl.store(y_place, sums.to(y_ptr.dtype.element_ty), mask=is_row[:, None] & is_output[None, :])


def triton_product(x_NI: Tensor, layer: QuantLinear) -> Tensor:
    """``x @ weight.T`` of a layer in NF4 or FP4 with double quantization.

    Args:
        x_NI: At most `MOST_ROWS` rows.
        layer: Without a bias; its inputs a multiple of 64.

    Shapes:
        x_NI: (N, I). Returns (N, O).
    """
    num_outputs, num_inputs = layer.shape
    values, state = layer.format.state_4bit(layer.packed, layer.shape, x_NI.dtype)
    y_NO = torch.empty(len(x_NI), num_outputs, dtype=x_NI.dtype, device=x_NI.device)
    nested: Any = state.state2
    _product[(triton.cdiv(num_outputs, OUTPUTS),)](
        x_NI.contiguous(),
        values,
        state.absmax,
        nested.absmax,
        state.offset,
        state.code,
        nested.code,
        y_NO,
        len(x_NI),
        num_outputs,
        num_inputs,
        ROWS=max(FEWEST_ROWS, triton.next_power_of_2(len(x_NI))),
        OUTPUTS=OUTPUTS,
        INPUTS=INPUTS,
        BLOCK=BLOCK,
        NESTED_BLOCK=NESTED_BLOCK,
    )
    return y_NO
