"""KTO: an answer that is desirable is to gain on the reference more than answers do on the whole, another one less.

Texts come one by one, rated. The reference is the base without its adapter. What answers gain on the whole is told by
mismatched ones: prompts with the completions of other rows, scored before a step's or an evaluation's other passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raylora.objectives.by_text import sums_by_text
from raylora.objectives.objective import Scores, Texts


@dataclass(frozen=True)
class Kto:
    """The mean weighted loss of answers, w (1 - sigmoid(beta (g - z))), of undesirable ones of z - g.

    g is how much likelier the run holds an answer than the reference does, as a logarithm, and z the reference point:
    the mean of the same over mismatched answers, at least 0.

    Args:
        beta: Above 0; the larger, the closer to the reference.
        desirable_weight: w of desirable answers, above 0.
        undesirable_weight: w of the others, above 0.

    Source: KTO, https://arxiv.org/abs/2402.01306, equations 7 and 8.
    """

    beta: float
    desirable_weight: float
    undesirable_weight: float

    needs_reference = True
    needs_point = True
    num_losses = 1

    def sums(self, scores: Scores, texts: Texts) -> Tensor:
        """Losses of answers; rewards of desirable ones and of the others; the reference point, once an answer.

        Args:
            scores: As of `Objective`, with reference and point.
            texts: As of `Objective`, rated.
        """
        assert scores.reference_N is not None and scores.point is not None
        gain_S = sums_by_text(scores.reference_N - scores.losses_N, texts.label_counts)
        is_desirable_S = torch.tensor(texts.is_desirable, dtype=torch.bool, device=gain_S.device)
        sign_S = torch.where(is_desirable_S, 1.0, -1.0)
        weight_S = torch.where(is_desirable_S, self.desirable_weight, self.undesirable_weight)
        # 1 - sigmoid(x) = sigmoid(-x), whose digits stay where it is small.
        losses_S = weight_S * torch.sigmoid(self.beta * sign_S * (scores.point - gain_S))
        reward_S = self.beta * gain_S.detach()
        rewards = [reward_S[is_desirable_S].sum(), reward_S[~is_desirable_S].sum()]
        return torch.stack([losses_S.sum(), *rewards, scores.point * len(gain_S)])

    def counts(self, texts: Texts) -> list[int]:
        """Answers, desirable and undesirable ones, and answers."""
        num_answers, num_desirable = len(texts.is_desirable), sum(texts.is_desirable)
        return [num_answers, num_desirable, num_answers - num_desirable, num_answers]

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """Mean rewards, beta times g, of either kind and how far they are apart; and the reference point."""
        _, desirable, undesirable, point = means
        return {
            "reward_desirable": desirable,
            "reward_undesirable": undesirable,
            "reward_margin": desirable - undesirable,
            "kl": point,
        }


def gain_of(scores: Scores) -> Tensor:
    """How much likelier than the reference a run holds some texts, as a logarithm, summed over them.

    Args:
        scores: With a reference.

    Shapes:
        Returns (), float64.
    """
    assert scores.reference_N is not None
    return (scores.reference_N - scores.losses_N).double().sum()


def reference_point(gain: Tensor, num_texts: Tensor) -> Tensor:
    """Return z of equation 7, an estimate of how far the run is from the reference.

    Args:
        gain: Of mismatched texts, summed.
        num_texts: How many.

    Shapes:
        All (). Returns float32.
    """
    return (gain / num_texts).clamp(min=0).float()
