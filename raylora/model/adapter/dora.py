"""DoRA: the magnitude of each row of the weight trains beside the low-rank update of its direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from raylora.model.adapter.slot import Slot
from raylora.model.adapter.update import Tensors, Tokens, Update
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.base.product import frozen_product, product

TINY = torch.finfo(torch.float32).tiny
"""Least square of a row's norm: a row of zeros has magnitude 0 and stays one, instead of 0 / 0."""


class DoraUpdate(Update):
    """y = m / ||W + scale B A|| (z W^T + scale (z A^T) B^T), the norm row by row and a constant to the gradient.

    The bias, and what dropout took from the frozen product's inputs, stay as they are, as in PEFT: y is what the frozen
    layer gives for x, plus how much the scaled direction gives for z more than the frozen weight does.

    Args:
        settings: Of the adapter.
        a_RI: Start of A.
        b_OR: Start of B, zero.
        base: The frozen layer.
        squares_O: Squared norm of each row of its weight, float32.

    Source: DoRA, https://arxiv.org/abs/2402.09353, equation 5 and section 4.3.
    """

    def __init__(self, settings: Slot, a_RI: Tensor, b_OR: Tensor, base: FrozenLinear, squares_O: Tensor) -> None:
        super().__init__(settings, a_RI, b_OR)
        self._base, self._squares_O = base, squares_O
        self.m_O = self.trained["lora_magnitude_vector"] = nn.Parameter(squares_O.clamp_min(TINY).sqrt())

    @property
    @override
    def frozen(self) -> Tensors:
        """The squared norms of the frozen rows; all slots of a layer share them."""
        return (self._squares_O,)

    @override
    def meet(self, tokens: Tokens, x_NI: Tensor, weight_OI: Tensor) -> Tensors:
        """The norms, and under dropout the frozen product of what it keeps."""
        norm_O = self._norm(weight_OI)
        return (norm_O,) if tokens.kept_NI is None else (norm_O, frozen_product(tokens.of(x_NI), weight_OI))

    @override
    def add(self, tokens: Tokens, x_NI: Tensor, y_NO: Tensor, met: Tensors) -> Tensors:
        """Put the scaled direction in the place of the frozen product."""
        norm_O, *dropped = met
        bias_O = self._base.bias
        v_NO = dropped[0] if dropped else y_NO.clone() if bias_O is None else y_NO - bias_O
        y_NO.sub_(v_NO)
        (h_NR,) = super().add(tokens, x_NI, v_NO, ())
        y_NO.add_(v_NO * self._gain(norm_O, y_NO.dtype))
        return h_NR, v_NO, norm_O

    @override
    def inward(self, tokens: Tokens, grad_y_NO: Tensor, grad_base_NO: Tensor, kept: Tensors) -> Tensor:
        """Without dropout the frozen product is scaled whole, and so is what flows back through it."""
        if tokens.kept_NI is not None:
            return grad_base_NO
        if grad_base_NO is grad_y_NO:
            grad_base_NO = grad_y_NO.clone()
        grad_base_NO[tokens.where] *= self._gain(kept[-1], grad_y_NO.dtype)
        return grad_base_NO

    @override
    def outward(self, tokens: Tokens, grad_NO: Tensor, grad_x_NI: Tensor, weight_OI: Tensor, kept: Tensors) -> None:
        """Under dropout the frozen product of the kept inputs has a way back of its own."""
        if tokens.kept_NI is not None:
            grad_v_NO = grad_NO * (self._gain(kept[-1], grad_NO.dtype) - 1)
            grad_x_NI += tokens.thin(frozen_product(grad_v_NO, weight_OI.t()))

    @override
    def backward(
        self, tokens: Tokens, x_NI: Tensor, grad_NO: Tensor, grad_x_NI: Tensor | None, kept: Tensors
    ) -> Tensors:
        """The magnitudes' gradient beside those of the matrices."""
        h_NR, v_NO, norm_O = kept
        grad_m_O = (grad_NO * v_NO).sum(0, dtype=torch.float32) / norm_O
        grad_v_NO = grad_NO * self._gain(norm_O, grad_NO.dtype)
        return *super().backward(tokens, x_NI, grad_v_NO, grad_x_NI, (h_NR,)), grad_m_O

    def _gain(self, norm_O: Tensor, dtype: torch.dtype) -> Tensor:
        return (self.m_O / norm_O).to(dtype)

    def _norm(self, weight_OI: Tensor) -> Tensor:
        """||W_o + s B_o A||, from ||W_o||^2 + 2 s B_o (A W_o^T) + s^2 B_o (A A^T) B_o^T.

        It takes R rows through the frozen weight instead of a weight of its own.
        """
        a_RI, b_OR, scale = self.a_RI, self.b_OR, self.scale
        through_RO = product(a_RI.to(weight_OI.dtype), weight_OI).float()
        cross_O = (through_RO.t() * b_OR).sum(1)
        square_O = (b_OR @ (a_RI @ a_RI.t()) * b_OR).sum(1)
        return (self._squares_O + 2 * scale * cross_O + scale**2 * square_O).clamp_min_(TINY).sqrt_()
