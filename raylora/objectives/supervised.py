"""Supervised fine-tuning: the mean loss of the labelled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Supervised:
    """The mean loss of all labelled tokens."""

    needs_reference = False
    num_losses = 1
    metrics = ()

    def sums(self, losses_N: Tensor, label_counts: Sequence[int], reference_N: Tensor | None) -> Tensor:
        """The sum of the losses.

        Args:
            losses_N: As of `Objective`.
            label_counts: As of `Objective`.
            reference_N: None is asked for.
        """
        return losses_N.sum()[None]

    def counts(self, label_counts: Sequence[int]) -> list[int]:
        """Labelled tokens."""
        return [sum(label_counts)]
