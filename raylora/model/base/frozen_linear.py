"""Frozen linear layers, plain and quantized: their weight takes no gradient; a packed one is whole for a product only.

Called by ``load``, which puts them in the place of a model's own, and by the low-rank layers on top.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from raylora.model.base.packed_weight import NO_OTHER, PackedWeight
from raylora.model.base.product import frozen_product
from raylora.model.base.quant import QuantFormat


class _FrozenProduct(torch.autograd.Function):
    """y = x W^T + b with W whole for the product only, forward and backward; W gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, held: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.save_for_backward(held)
        ctx.layer = layer
        return frozen_product(x_NI, layer.whole(held, x_NI.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_y_NO,) = grads
        (held,) = ctx.saved_tensors
        return frozen_product(grad_y_NO, ctx.layer.whole(held, grad_y_NO.dtype).t()), None, None


class ToRead(nn.Parameter):
    """A weight made anew for whoever reads it; what is written to it would be lost, so it takes nothing."""

    @property
    def data(self) -> Tensor:
        """The values."""
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined, no-any-return]  # typed as a Tensor

    @data.setter
    def data(self, value: Tensor) -> None:
        """Refuse another one."""
        raise TypeError(NO_OTHER)


class FrozenLinear(nn.Linear):
    """A linear layer that is never trained.

    Args:
        linear: The layer it stands for, whose parameters it takes; they may be on the meta device.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._take(linear)
        self.register_parameter("bias", linear.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features."""
        return self.out_features, self.in_features

    @property
    def held(self) -> Tensor:
        """What the layer holds of its weight."""
        return self.weight

    def whole(self, held: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight (O, I) in ``dtype``, from what :attr:`held` gave.

        Args:
            held: The weight as it lies here, gathered where a strategy cut it.
            dtype: That of the product.
        """
        return held

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ W.T + bias``, shapes (..., I) to (..., O)."""
        x_NI = input.reshape(-1, self.in_features)
        y_NO: Tensor = _FrozenProduct.apply(x_NI, self.held, self)  # type: ignore[no-untyped-call]
        return y_NO.view(*input.shape[:-1], self.out_features)

    def _take(self, linear: nn.Linear) -> None:
        self.weight = linear.weight


class QuantLinear(FrozenLinear):
    """A frozen linear layer whose weight is one packed row.

    It is an ``nn.Linear`` for whoever asks (PEFT, target matching): ``weight`` unpacks when its values are used.

    Args:
        linear: The layer it stands for; its weight may be on the meta device.
        quant_format: How the weight is packed.
    """

    def __init__(self, linear: nn.Linear, quant_format: QuantFormat) -> None:
        self.format, self.compute_dtype = quant_format, linear.weight.dtype
        super().__init__(linear)

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The weight in the compute dtype, unpacked anew at each reading whose values are used."""
        device = next(self.parameters(recurse=False)).device  # not of `packed`: ZeRO-3 would gather it for the question
        weight = PackedWeight(
            self.shape, self.compute_dtype, device, lambda: self.whole(self.packed, self.compute_dtype)
        )
        return cast(nn.Parameter, weight)

    @property
    def held(self) -> Tensor:
        """The packed row."""
        return self.packed

    @override
    def whole(self, held: Tensor, dtype: torch.dtype) -> Tensor:
        """The row unpacked."""
        return self.format.unpack(held, self.shape, dtype)

    def extra_repr(self) -> str:
        """Shape and format, for printing a model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, format={self.format.kind}"

    def _take(self, linear: nn.Linear) -> None:
        row = torch.empty(self.format.numel(self.shape), dtype=self.format.storage, device=linear.weight.device)
        self.packed = nn.Parameter(row, requires_grad=False)
