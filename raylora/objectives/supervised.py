"""Supervised fine-tuning: the mean loss of the labelled tokens, by how much each counts."""

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
    """The mean loss of all labelled tokens; its exponential, and how many of them the model holds likeliest.

    Where tokens have weights both are weighted means, sum(w x) / sum(w): only what a token weighs beside others counts.
    """

    needs_reference = False
    needs_point = False
    num_losses = 1

    def sums(self, scores: Scores, texts: Texts) -> Tensor:
        """The sum of the losses, and the hits.

        Args:
            scores: As of `Objective`; no reference is asked for.
            texts: As of `Objective`.
        """
        if texts.weights_N is None:
            return torch.stack([scores.losses_N.sum(), scores.is_hit_N.sum().float()])
        weights_N = texts.weights_N.to(scores.losses_N.device)
        return torch.stack([(weights_N * scores.losses_N).sum(), (weights_N * scores.is_hit_N).sum()])

    def counts(self, texts: Texts) -> Sequence[float]:
        """Labelled tokens, or what they weigh, twice."""
        weighs = sum(texts.label_counts) if texts.weights_N is None else float(texts.weights_N.double().sum())
        return [weighs, weighs]

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """Perplexity, and the share of tokens that the model holds likeliest."""
        loss, accuracy = means
        return {"perplexity": math.exp(min(loss, MOST_NATS)), "token_accuracy": accuracy}
