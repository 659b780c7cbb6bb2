"""Preferences: of two answers to one prompt the better one is to become likelier than the worse one.

Texts come in pairs, the chosen answer before the rejected one. The reference of DPO and IPO is the base without its
adapter, so no second model is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raylora.objectives.by_text import sums_by_text
from raylora.objectives.objective import Scores, Texts

Kind = Literal["dpo", "ipo", "orpo"]

CERTAIN = 1e-7
"""Least loss of a token, in nats, in ORPO's odds: about float32's rounding of a probability of 1."""


@dataclass(frozen=True)
class Preference:
    """The mean loss of pairs, and how far chosen and rejected answers are apart.

    Args:
        kind: ``dpo``: -log sigmoid(beta h), h by how much more than the reference the run prefers the chosen answer.
            ``ipo``: (h - 1 / (2 beta))^2, log-probabilities being means over an answer's tokens. ``orpo``: the
            cross-entropy of chosen answers, and of their prompts where these are labelled, less beta log sigmoid of the
            log odds ratio of both answers; no reference.
        beta: Above 0. How much a preference counts: of DPO and IPO the larger, the closer to the reference.

    Source: DPO, https://arxiv.org/abs/2305.18290, equation 7; IPO, https://arxiv.org/abs/2310.12036, equation 17, over
        means of tokens as its authors computed it (TRL's note); ORPO, https://arxiv.org/abs/2403.07691, equations 6 and
        7, with beta for its lambda.
    """

    kind: Kind
    beta: float

    needs_point = False

    @property
    def needs_reference(self) -> bool:
        """All but ORPO."""
        return self.kind != "orpo"

    @property
    def num_losses(self) -> int:
        """ORPO has the loss of tokens beside that of pairs."""
        return 2 if self.kind == "orpo" else 1

    def sums(self, scores: Scores, texts: Texts) -> Tensor:
        """Losses of pairs, and for ORPO of the chosen texts' tokens before them; then what `metrics` tells.

        Args:
            scores: As of `Objective`; ORPO takes no reference.
            texts: The chosen answer of each pair, then its rejected one.
        """
        losses_P2 = sums_by_text(scores.losses_N, texts.label_counts).view(-1, 2)
        counts_P2 = torch.tensor(texts.label_counts, dtype=torch.int64, device=losses_P2.device).view(-1, 2)
        log_p_P2 = -losses_P2
        if texts.weights_N is not None:  # answers are judged without their prompts
            answers_N = texts.weights_N.to(losses_P2.device)
            counts_P2 = sums_by_text(answers_N, texts.label_counts).view(-1, 2)
            log_p_P2 = -sums_by_text(answers_N * scores.losses_N, texts.label_counts).view(-1, 2)
        if self.kind == "orpo":
            mean_P2 = log_p_P2 / counts_P2
            losses = [losses_P2[:, 0].sum(), -self.beta * _odds(mean_P2).sum()]
            reward_P2 = self.beta * mean_P2
        else:
            assert scores.reference_N is not None
            gain_P2 = log_p_P2 + sums_by_text(scores.reference_N, texts.label_counts).view(-1, 2)
            losses = [self._over_reference(gain_P2, counts_P2).sum()]
            reward_P2 = self.beta * gain_P2
        margin_P = (reward_P2[:, 0] - reward_P2[:, 1]).detach()
        return torch.stack([*losses, (margin_P > 0).float().sum(), margin_P.sum()])

    def counts(self, texts: Texts) -> list[int]:
        """Pairs, and for ORPO the labelled tokens of chosen texts before them."""
        num_pairs = len(texts.label_counts) // 2
        tokens = [sum(texts.label_counts[::2])] if self.kind == "orpo" else []
        return [*tokens, num_pairs, num_pairs, num_pairs]

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """The share of pairs whose chosen answer has the higher reward, and the mean difference.

        Rewards are beta times the log-probability over the reference's, and without a reference beta times the mean
        log-probability of a token.
        """
        accuracy, margin = means[self.num_losses :]
        return {"reward_accuracy": accuracy, "reward_margin": margin}

    def _over_reference(self, gain_P2: Tensor, counts_P2: Tensor) -> Tensor:
        if self.kind == "dpo":
            return -F.logsigmoid(self.beta * (gain_P2[:, 0] - gain_P2[:, 1]))
        mean_P2 = gain_P2 / counts_P2
        return (mean_P2[:, 0] - mean_P2[:, 1] - 1 / (2 * self.beta)) ** 2


def _odds(mean_P2: Tensor) -> Tensor:
    """Log sigmoid of the log odds ratio, from mean log-probabilities.

    An answer that is certain to the last digit counts as almost certain: its odds have no bound, nor their gradient.
    """
    mean_P2 = mean_P2.clamp(max=-CERTAIN)
    log_odds_P2 = mean_P2 - torch.log(-torch.expm1(mean_P2))
    return F.logsigmoid(log_odds_P2[:, 0] - log_odds_P2[:, 1])
