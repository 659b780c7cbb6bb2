"""What a run minimises: losses of labelled tokens enter, sums and what they are divided by leave.

A loss is a sum of means. Each measure is a sum over tokens or rows, and is divided by their number over all ranks and
micro-batches of a step, so that neither changes what is learned. Called by the step and by evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """How the losses of tokens become a run's loss and what else is told of it."""

    @property
    def needs_reference(self) -> bool:
        """Whether it asks for the losses of the same tokens without the adapter."""

    @property
    def num_losses(self) -> int:
        """How many of the measures add up to the loss: the first ones."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the measures after those."""

    def sums(self, losses_N: Tensor, label_counts: Sequence[int], reference_N: Tensor | None) -> Tensor:
        """Sum each measure over a micro-batch.

        Args:
            losses_N: Cross-entropy of each labelled token, text by text.
            label_counts: Labelled tokens of each text.
            reference_N: The same without the adapter, where it is asked for; takes no gradient.

        Shapes:
            losses_N, reference_N: (N,), N the sum of ``label_counts``. Returns (M,), M measures.
        """

    def counts(self, label_counts: Sequence[int]) -> list[int]:
        """What each measure of a micro-batch is divided by; a step adds these up.

        Args:
            label_counts: Labelled tokens of each text.
        """


@dataclass(frozen=True)
class Measured:
    """What a step or an evaluation came to.

    Args:
        loss: What is minimised.
        metrics: By name.
    """

    loss: float
    metrics: Mapping[str, float]


def measured(objective: Objective, means: Sequence[float]) -> Measured:
    """Sort means by what they are.

    Args:
        objective: Whose measures they are.
        means: One for each measure.
    """
    num_losses = objective.num_losses
    return Measured(sum(means[:num_losses]), dict(zip(objective.metrics, means[num_losses:], strict=True)))
