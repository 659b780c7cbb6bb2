"""One update of an optimizer whose gradients are summed: what every stepper of ours ends a step with.

Gradients and their norm enter; they leave clipped, and the weights updated. Called by `flat`, `shard_stepper` and
`train/galore.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

RATE = "rate"
"""Of a parameter group: the multiple of the step's learning rate; 1 where a group has none."""


def clipped_update(
    optimizer: torch.optim.Optimizer,
    gradients: Iterable[Tensor],
    norm: float,
    max_grad_norm: float,
    learning_rate: float,
    updated: Callable[[], None] | None,
) -> None:
    """Clip by norm and update; nothing is updated where the norm is not finite.

    Args:
        optimizer: Of what trains.
        gradients: What it will read, or what that is a view of; scaled in place.
        norm: Of all gradients, over all ranks that share them.
        max_grad_norm: Largest norm; 0 for no clipping.
        learning_rate: Of this step.
        updated: As of `Stepper`.
    """
    if max_grad_norm and norm > max_grad_norm:
        for gradient in gradients:
            gradient.mul_(max_grad_norm / (norm + 1e-6))  # torch.nn.utils.clip_grad_norm_'s epsilon
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(RATE, 1.0)
    if math.isfinite(norm):
        optimizer.step()
        if updated is not None:
            updated()
