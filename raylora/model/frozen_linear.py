"""A frozen linear layer, plain or quantized: its weight takes no gradient; a packed one is whole for a product only.

Called by ``load``, which puts quantized layers in the place of plain ones, and by the low-rank layers on top.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raylora.model.quant import QuantFormat


def held_weight(layer: nn.Linear) -> Tensor:
    """What a frozen layer holds: its packed row, or its weight."""
    return layer.packed if isinstance(layer, QuantLinear) else layer.weight


def whole_weight(layer: nn.Linear, held: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight (O, I) of a layer, from what :func:`held_weight` gave.

    Args:
        layer: The layer.
        held: What :func:`held_weight` gave for it.
        dtype: Of an unpacked weight; a plain one comes as it is held.
    """
    return layer.format.unpack(held, layer.shape, dtype) if isinstance(layer, QuantLinear) else held


class _FrozenLinear(torch.autograd.Function):
    """y = x W^T + b with W unpacked for the product only, forward and backward; W gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: Tensor, bias: Tensor | None, layer: QuantLinear) -> Tensor:
        ctx.save_for_backward(row)
        ctx.layer = layer
        return F.linear(x, layer.format.unpack(row, layer.shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_y,) = grads
        (row,) = ctx.saved_tensors
        layer = ctx.layer
        return grad_y @ layer.format.unpack(row, layer.shape, grad_y.dtype), None, None, None


class QuantLinear(nn.Linear):
    """A frozen linear layer whose weight is one packed row.

    It is an ``nn.Linear`` for whoever asks (PEFT, target matching): ``weight`` unpacks on reading.

    Args:
        linear: The layer it stands for; its weight may be on the meta device.
        quant_format: How the weight is packed.
    """

    def __init__(self, linear: nn.Linear, quant_format: QuantFormat) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.format = quant_format
        row = torch.empty(quant_format.numel(self.shape), dtype=quant_format.storage, device=linear.weight.device)
        self.packed = nn.Parameter(row, requires_grad=False)
        self.register_parameter("bias", linear.bias)
        self.compute_dtype = linear.weight.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features."""
        return self.out_features, self.in_features

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The weight in the compute dtype, unpacked anew at each reading."""
        unpacked = self.format.unpack(self.packed, self.shape, self.compute_dtype)
        return nn.Parameter(unpacked, requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ W.T + bias``, shapes (..., I) to (..., O)."""
        out: Tensor = _FrozenLinear.apply(input, self.packed, self.bias, self)
        return out

    def extra_repr(self) -> str:
        """Shape and format, for printing a model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, format={self.format.kind}"
