"""Plain LoRA of several slots with one shape, side by side: one call for each product of all of them.

Called by the low-rank layers, for slots that lie next to each other and are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from raylora.model.adapter.update import Addition, Tensors, Update
from raylora.model.base.product import is_batched

Likeness = tuple[float, ...]
"""Slots with equal ones can be in one stack."""


class Stack(Addition):
    """What some slots add on one layer.

    A slot alone is a stack of one, so that its numbers come from the same call with or without others.

    Args:
        updates: Of one likeness, in the order of their tokens.
    """

    def __init__(self, updates: Sequence[Update]) -> None:
        self.scale, self._updates = updates[0].scale, updates

    @property
    @override
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for update in self._updates for parameter in update.parameters]

    @override
    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        a_KRI = torch.stack([update.a_RI for update in self._updates])
        b_KOR = torch.stack([update.b_OR for update in self._updates])
        return a_KRI.to(dtype), b_KOR.to(dtype)

    @override
    def apart(self, rows_NX: Tensor) -> Tensor:
        num_slots = len(self._updates)
        rows_KTX: Tensor = rows_NX.unflatten(0, (num_slots, len(rows_NX) // num_slots))
        return rows_KTX

    @override
    def gradients(self, grad_a: Tensor, grad_b: Tensor) -> Tensors:
        return tuple(grad.float() for pair in zip(grad_a, grad_b, strict=True) for grad in pair)


def likeness(update: Update, num_tokens: int, dtype: torch.dtype) -> Likeness | None:
    """What a slot has in common with those that it can share a stack with.

    Args:
        update: Its update of a layer.
        num_tokens: Its tokens in the pass.
        dtype: Of the products.

    Returns:
        ``None`` where it is computed by itself: another kind than plain LoRA, or a shape that is not faster in common.
    """
    if type(update) is not Update or not all(is_batched(num_tokens, matrix, dtype) for matrix in update.parameters):
        return None
    return num_tokens, update.settings.r, update.scale, update.settings.dropout
