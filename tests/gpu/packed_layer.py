"""A linear layer with a random weight in 4 bits, for what multiplies by it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.base.quant import QuantFormat


def packed_layer(num_outputs: int, num_inputs: int, kind: Literal["nf4", "fp4"] = "nf4") -> QuantLinear:
    """In float32, with double quantization, always with the same values."""
    weight_OI = torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(0))
    form = QuantFormat(kind, double_quant=True, storage=torch.float32)
    layer = QuantLinear(nn.Linear(num_inputs, num_outputs, bias=False, device="meta"), form)
    layer.packed = nn.Parameter(form.pack(weight_OI), requires_grad=False)
    return layer
