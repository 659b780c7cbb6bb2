"""Supervised fine-tuning: the mean loss of the labelled tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raylora.objectives.objective import Scores, Texts

MOST_NATS = 700.0
"""Of a loss whose perplexity is told as it is: a float holds no more."""


@dataclass(frozen=True)
class Supervised:
    """The mean loss of all labelled tokens; its exponential, and how many of them the model holds likeliest."""

    needs_reference = False
    needs_point = False
    num_losses = 1

    def sums(self, scores: Scores, texts: Texts) -> Tensor:
        """The sum of the losses, and the hits.

        Args:
            scores: As of `Objective`; no reference is asked for.
            texts: As of `Objective`.
        """
        return torch.stack([scores.losses_N.sum(), scores.is_hit_N.sum().float()])

    def counts(self, texts: Texts) -> list[int]:
        """Labelled tokens, twice."""
        num_tokens = sum(texts.label_counts)
        return [num_tokens, num_tokens]

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """Perplexity, and the share of tokens that the model holds likeliest."""
        loss, accuracy = means
        return {"perplexity": math.exp(min(loss, MOST_NATS)), "token_accuracy": accuracy}
