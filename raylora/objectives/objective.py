"""What a run minimises: what was read out of labelled tokens enters, sums and what they are divided by leave.

A loss is a sum of means. Each measure is a sum over tokens or rows, and is divided by their number, or by what they
weigh, over all ranks and micro-batches of a step, so that neither changes what is learned. Called by the step and by
evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Texts:
    """What is known of the texts of a micro-batch before any pass.

    Args:
        label_counts: Labelled tokens of each text.
        is_desirable: Whether each is a desirable answer; false where rows are not rated.
        weights_N: How much each labelled token counts, above 0 to 1; ``None`` where all count in full. Of pairs whose
            prompts are learned too, 1 for tokens of answers and 0 for those of prompts.

    Shapes:
        weights_N: (N,), N all labelled tokens, text by text.
    """

    label_counts: Sequence[int]
    is_desirable: Sequence[bool] = ()
    weights_N: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """What passes tell of a micro-batch's labelled tokens, text by text.

    Args:
        losses_N: Cross-entropy of each.
        is_hit_N: Whether each is what the model holds likeliest; takes no gradient.
        reference_N: Cross-entropy of each without the adapter, where it is asked for; takes no gradient.
        point: The slot's reference point, where it is asked for.
        classes_N: The class that each is, where a head was asked.
        logits_NL: The head's output for each, where one was asked.

    Shapes:
        losses_N, is_hit_N, reference_N, classes_N: (N,), N all labelled tokens. point: (). logits_NL: (N, L), L outputs
        of the head.
    """

    losses_N: Tensor
    is_hit_N: Tensor
    reference_N: Tensor | None = None
    point: Tensor | None = None
    classes_N: Tensor | None = None
    logits_NL: Tensor | None = None

    def split(self, counts: Sequence[int]) -> tuple[Scores, ...]:
        """Take passes of several micro-batches apart, before anything else is told of them.

        Args:
            counts: Labelled tokens of each.
        """
        losses, hits = self.losses_N.split(list(counts)), self.is_hit_N.split(list(counts))
        if self.classes_N is None or self.logits_NL is None:
            return tuple(Scores(*both) for both in zip(losses, hits, strict=True))
        classes, logits = self.classes_N.split(list(counts)), self.logits_NL.split(list(counts))
        parts = zip(losses, hits, classes, logits, strict=True)
        return tuple(Scores(loss, hit, classes_N=of, logits_NL=told) for loss, hit, of, told in parts)


class Objective(Protocol):
    """How what was read out becomes a run's loss and what else is told of it."""

    @property
    def needs_reference(self) -> bool:
        """Whether it asks for the losses of the same tokens without the adapter."""

    @property
    def needs_point(self) -> bool:
        """Whether it asks for a reference point: what mismatched answers gain, over a whole step or evaluation."""

    @property
    def num_losses(self) -> int:
        """How many of the measures add up to the loss: the first ones."""

    def sums(self, scores: Scores, texts: Texts) -> Tensor:
        """Sum each measure over a micro-batch.

        Args:
            scores: Of its labelled tokens.
            texts: Of the same micro-batch.

        Shapes:
            Returns (M,), M measures; those that are not losses take no gradient.
        """

    def counts(self, texts: Texts) -> Sequence[float]:
        """What each measure of a micro-batch is divided by; a step adds these up.

        Args:
            texts: Of the micro-batch.
        """

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """What is told beside the loss, by name.

        Args:
            means: One for each measure; NaN where there was nothing to be measured.
        """


@dataclass(frozen=True)
class Measured:
    """What a step or an evaluation came to.

    Args:
        loss: What is minimised.
        metrics: By name; without those of which there was nothing to be measured.
    """

    loss: float
    metrics: Mapping[str, float]


def measured(objective: Objective, means: Sequence[float]) -> Measured:
    """Sort means by what they are.

    Args:
        objective: Whose measures they are.
        means: One for each measure.
    """
    metrics = {name: value for name, value in objective.metrics(means).items() if not math.isnan(value)}
    return Measured(sum(means[: objective.num_losses]), metrics)
