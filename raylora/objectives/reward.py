"""Reward modelling: the better of two texts is to be given the higher number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raylora.objectives.objective import Scores, Texts


@dataclass(frozen=True)
class Reward:
    """The mean of -log sigmoid(r_chosen - r_rejected) over pairs of texts, the chosen one first.

    Source: Bradley-Terry, in https://arxiv.org/abs/2203.02155, equation 1, with one pair a prompt.
    """

    needs_reference = False
    needs_point = False
    num_losses = 1

    def sums(self, scores: Scores, texts: Texts) -> Tensor:
        """Losses of pairs, pairs that are ordered rightly, and by how much.

        Args:
            scores: As of `Objective`, of heads with one output, one a text.
            texts: As of `Objective`, pair by pair.
        """
        assert scores.logits_NL is not None
        reward_P2 = scores.logits_NL[:, 0].view(-1, 2)
        margin_P = reward_P2[:, 0] - reward_P2[:, 1]
        told_P = margin_P.detach()
        return torch.stack([-F.logsigmoid(margin_P).sum(), (told_P > 0).float().sum(), told_P.sum()])

    def counts(self, texts: Texts) -> list[int]:
        """Pairs."""
        return [len(texts.label_counts) // 2] * 3

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """`reward_accuracy` and `reward_margin`, by the names of the other objectives on pairs."""
        _, accuracy, margin = means
        return {"reward_accuracy": accuracy, "reward_margin": margin}
