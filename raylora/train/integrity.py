"""A check that training left the base alone. One that trains itself has nothing frozen, and nothing to compare."""

from __future__ import annotations

import torch

from raylora.errors import RunFailedError
from raylora.train.trainee import Trainee


def checksum(trainee: Trainee) -> list[int]:
    """The sum of the words that this rank holds of each parameter of the base; a pass over memory, no copy."""
    return [_sum_of_bits(trainee.strategy.local(parameter)) for parameter in trainee.frozen]


def check_unchanged(trainee: Trainee, before: list[int]) -> None:
    """Compare with the checksum from before training.

    Args:
        trainee: What was trained.
        before: What `checksum` returned then.

    Raises:
        RunFailedError: A sum differs: something wrote to the base. Changes within a parameter that cancel out stay
            unseen.
    """
    changed = sum(a != b for a, b in zip(before, checksum(trainee), strict=True))
    if changed:
        raise RunFailedError(
            f"{changed} parameters of the frozen base changed on rank {trainee.ranks.rank}; the adapter was not kept. "
            "Report this with the spec as a bug"
        )


def _sum_of_bits(part: torch.Tensor) -> int:
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[part.element_size()]
    return int(part.detach().contiguous().view(words).sum(dtype=torch.int64))
