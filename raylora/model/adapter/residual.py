"""Adapters that start as a part of the base's weight: PiSSA and OLoRA.

PEFT takes the start off the base. Here the base is shared, quantized and sharded, and stays; a frozen negative
companion in the slot takes the start off again: y = x W^T + scale (z A^T) B^T - scale (x A0^T) B0^T.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from raylora.model.adapter.slot import Slot
from raylora.model.adapter.update import Tensors, Tokens, Update
from raylora.model.base.product import add_product, product


class ResidualUpdate(Update):
    """LoRA over the base less its start.

    In PEFT's format it is one LoRA of twice the rank over the base as it is, [A; A0] and [B, -B0], as PEFT converts
    PiSSA. A checkpoint holds that, so that a resumed run need not decompose the weight to the same bits again.

    Args:
        settings: Of the adapter.
        a_RI: Start of A.
        b_OR: Start of B.

    Source: PiSSA, https://arxiv.org/abs/2404.02948, section 3; OLoRA, https://arxiv.org/abs/2406.01775.
    """

    def __init__(self, settings: Slot, a_RI: Tensor, b_OR: Tensor) -> None:
        super().__init__(settings, a_RI, b_OR)
        self._a0_RI, self._minus_b0_OR = a_RI.clone(), -b_OR

    @property
    @override
    def frozen(self) -> Tensors:
        """The companion."""
        return self._a0_RI, self._minus_b0_OR

    @override
    def export(self) -> dict[str, Tensor]:
        """Both pairs as one."""
        trained = super().export()
        return {
            "lora_A": torch.cat([trained["lora_A"], self._a0_RI]),
            "lora_B": torch.cat([trained["lora_B"], self._minus_b0_OR], dim=1),
        }

    @override
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the two pairs apart."""
        r = self.settings.r
        a_RI, b_OR = tensors["lora_A"], tensors["lora_B"]
        super().load({"lora_A": a_RI[:r], "lora_B": b_OR[:, :r]})
        self._a0_RI.copy_(a_RI[r:])
        self._minus_b0_OR.copy_(b_OR[:, r:])

    @override
    def add(self, tokens: Tokens, x_NI: Tensor, y_NO: Tensor, met: Tensors) -> Tensors:
        """The companion is a part of the base: dropout does not reach its inputs."""
        h0_NR = product(x_NI[tokens.where], self._a0_RI.to(x_NI.dtype)).mul_(self.scale)
        add_product(y_NO, h0_NR, self._minus_b0_OR.to(x_NI.dtype))
        return super().add(tokens, x_NI, y_NO, met)

    @override
    def backward(
        self, tokens: Tokens, x_NI: Tensor, grad_NO: Tensor, grad_x_NI: Tensor | None, kept: Tensors
    ) -> Tensors:
        """Through the companion flows the gradient of the inputs alone."""
        if grad_x_NI is not None:
            dtype = grad_NO.dtype
            grad_h0_NR = product(grad_NO, self._minus_b0_OR.to(dtype).t()).mul_(self.scale)
            add_product(grad_x_NI, grad_h0_NR, self._a0_RI.to(dtype).t())
        return super().backward(tokens, x_NI, grad_NO, grad_x_NI, kept)
