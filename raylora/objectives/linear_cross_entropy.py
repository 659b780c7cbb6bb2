"""Cross-entropy of an output head, a chunk of rows at a time, never holding all logits.

Hidden states of the labelled tokens enter; one loss a token leaves, and whether its logit was the largest. Where the
head takes no gradient, that of the hidden states is computed beside the loss, while a chunk's logits are there: the two
matrix products that the loss needs anyway, and nothing kept but one row a token. A head that trains has its logits
computed again in the backward pass: what its gradient is weighted with is known only then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from raylora.model.base.product import frozen_product

CHUNK_BYTES = 32 * 2**20
"""Largest chunk of logits held at once."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Of a frozen head."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        losses_N = torch.empty(len(hidden_NH), dtype=torch.float32, device=hidden_NH.device)
        is_hit_N = torch.empty_like(losses_N, dtype=torch.bool)
        needs_grad = ctx.needs_input_grad[0]
        grad_NH = torch.empty_like(hidden_NH) if needs_grad else None
        for rows in _chunks(len(hidden_NH), len(weight_VH)):
            logits = _logits(hidden_NH[rows], weight_VH, bias_V, scale)
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


class _TrainedLinearCrossEntropy(torch.autograd.Function):
    """Of a head that trains."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        log_sums_N = torch.empty(len(hidden_NH), dtype=torch.float32, device=hidden_NH.device)
        picked_N = torch.empty_like(log_sums_N)
        is_hit_N = torch.empty_like(log_sums_N, dtype=torch.bool)
        for rows in _chunks(len(hidden_NH), len(weight_VH)):
            logits = _logits(hidden_NH[rows], weight_VH, bias_V, scale)
            picked_N[rows] = logits.gather(1, targets_N[rows, None]).squeeze(1)
            is_hit_N[rows] = picked_N[rows] == logits.amax(dim=-1)
            log_sums_N[rows] = logits.logsumexp(dim=-1)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N, log_sums_N)
        ctx.mark_non_differentiable(is_hit_N)
        ctx.scale = scale
        return log_sums_N - picked_N, is_hit_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        grad_losses_N, _ = grads
        hidden_NH, weight_VH, bias_V, targets_N, log_sums_N = ctx.saved_tensors
        # Chunks are many, and in 16 bits a sum soon loses what each of them adds.
        grad_NH, grad_VH = torch.empty_like(hidden_NH), torch.zeros_like(weight_VH, dtype=torch.float32)
        grad_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        minus_one = log_sums_N.new_full((1, 1), -1.0)
        for rows in _chunks(len(hidden_NH), len(weight_VH)):
            logits = _logits(hidden_NH[rows], weight_VH, bias_V, ctx.scale)
            logits.sub_(log_sums_N[rows, None]).exp_()
            logits.scatter_add_(1, targets_N[rows, None], minus_one.expand(len(logits), 1))
            grad_logits = logits.mul_(ctx.scale * grad_losses_N[rows, None]).to(weight_VH.dtype)
            grad_NH[rows] = frozen_product(grad_logits, weight_VH.t())
            if grad_logits.dtype is grad_VH.dtype:
                grad_VH.addmm_(grad_logits.t(), hidden_NH[rows])
            else:
                grad_VH.add_(grad_logits.t() @ hidden_NH[rows])
            if grad_V is not None:
                grad_V.add_(grad_logits.sum(0, dtype=torch.float32))
        of_bias_V = None if bias_V is None or grad_V is None else grad_V.to(bias_V.dtype)
        return grad_NH, grad_VH.to(weight_VH.dtype), of_bias_V, None, None


def linear_cross_entropy(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of ``scale * (hidden @ weight.T + bias)`` against target ids, and whether no other id is likelier.

    Args:
        hidden_NH: Last hidden states of the labelled tokens.
        weight_VH: Of the output head; whether it takes a gradient says which way is gone.
        bias_V: Of the output head, where it has one; takes a gradient where the weight does.
        targets_N: Ids to predict.
        scale: Of the logits, above 0.

    Shapes:
        hidden_NH: (N, H). weight_VH: (V, H). bias_V: (V,) or None. targets_N: (N,), 0 to V-1.
        Returns (N,) float32 and (N,) bool.
    """
    if weight_VH.requires_grad:
        losses_N, is_hit_N = _TrainedLinearCrossEntropy.apply(hidden_NH, weight_VH, bias_V, targets_N, scale)
    else:
        losses_N, is_hit_N = _LinearCrossEntropy.apply(hidden_NH, weight_VH, bias_V, targets_N, scale)
    return losses_N, is_hit_N


def _chunks(num_targets: int, num_logits: int) -> Iterator[slice]:
    num_chunks = max(1, math.ceil(4 * num_targets * num_logits / CHUNK_BYTES))
    num_rows = max(1, math.ceil(num_targets / num_chunks))  # chunks of one size: a short last one wastes its product
    return (slice(start, start + num_rows) for start in range(0, num_targets, num_rows))


def _logits(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, scale: float) -> Tensor:
    logits = frozen_product(hidden_NH, weight_VH, bias_V).float()
    return logits if scale == 1.0 else logits.mul_(scale)
