"""Cross-entropy of a frozen output head, a chunk of rows at a time, never holding all logits.

Hidden states of the labelled tokens enter; one loss a token leaves, and whether its logit was the largest. The head
takes no gradient, so the gradient of the hidden states is computed beside the loss, while a chunk's logits are there:
the two matrix products that the loss needs anyway, and nothing kept but one row a token.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from raylora.model.product import frozen_product

CHUNK_BYTES = 32 * 2**20
"""Largest chunk of logits held at once."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        num_targets, num_logits = hidden_NH.shape[0], weight_VH.shape[0]
        num_chunks = max(1, math.ceil(4 * num_targets * num_logits / CHUNK_BYTES))
        num_rows = max(
            1, math.ceil(num_targets / num_chunks)
        )  # chunks of one size: a short last one wastes its product
        losses_N = torch.empty(num_targets, dtype=torch.float32, device=hidden_NH.device)
        is_hit_N = torch.empty(num_targets, dtype=torch.bool, device=hidden_NH.device)
        needs_grad = ctx.needs_input_grad[0]
        grad_NH = torch.empty_like(hidden_NH) if needs_grad else None
        for start in range(0, num_targets, num_rows):
            rows = slice(start, start + num_rows)
            logits = frozen_product(hidden_NH[rows], weight_VH, bias_V).float()
            if scale != 1.0:
                logits.mul_(scale)
            picks = targets_N[rows, None]
            logits.sub_(logits.amax(dim=-1, keepdim=True))
            picked = logits.gather(1, picks)
            is_hit_N[rows] = (picked == 0).squeeze(1)
            total = logits.exp_().sum(dim=-1, keepdim=True)
            losses_N[rows] = (total.log() - picked).squeeze(1)
            if grad_NH is not None:
                # softmax - onehot = (exp - total onehot) / total: the division waits until a row is short.
                logits.scatter_add_(1, picks, -total)
                grad_NH[rows] = frozen_product(logits.to(weight_VH.dtype), weight_VH.t())
                grad_NH[rows].div_(total / scale)
        ctx.save_for_backward(grad_NH)
        ctx.mark_non_differentiable(is_hit_N)
        return losses_N, is_hit_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        grad_losses_N, _ = grads
        (grad_NH,) = ctx.saved_tensors
        return grad_NH * grad_losses_N[:, None].to(grad_NH.dtype), None, None, None, None


def linear_cross_entropy(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of ``scale * (hidden @ weight.T + bias)`` against target ids, and whether no other id is likelier.

    Args:
        hidden_NH: Last hidden states of the labelled tokens.
        weight_VH: Of the output head; takes no gradient.
        bias_V: Of the output head, where it has one.
        targets_N: Ids to predict.
        scale: Of the logits, above 0.

    Shapes:
        hidden_NH: (N, H). weight_VH: (V, H), frozen. bias_V: (V,) or None, frozen. targets_N: (N,), 0 to V-1.
        Returns (N,) float32 and (N,) bool.
    """
    losses_N, is_hit_N = _LinearCrossEntropy.apply(hidden_NH, weight_VH, bias_V, targets_N, scale)
    return losses_N, is_hit_N
