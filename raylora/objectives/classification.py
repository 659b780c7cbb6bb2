"""Classes of texts or words: the mean cross-entropy of the labels, how many are right, and F1 over the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raylora.objectives.objective import Scores, Texts


@dataclass(frozen=True)
class Classification:
    """The mean cross-entropy of all labels.

    F1 is no mean of its parts, but made of means: of each class the shares of labels that are it, that are taken for
    it, and that are both. Over any ranks and batches those add up, and F1 is made of the sums.

    Args:
        num_labels: Classes, at least 2.
    """

    num_labels: int

    needs_reference = False
    needs_point = False
    num_losses = 1

    def sums(self, scores: Scores, texts: Texts) -> Tensor:
        """The sum of losses; labels that are right; by class labels taken for it rightly, those taken for it, its own.

        Args:
            scores: As of `Objective`, of heads.
            texts: As of `Objective`.
        """
        assert scores.classes_N is not None and scores.logits_NL is not None
        found_N = scores.logits_NL.detach().argmax(1)
        by_class = [
            torch.bincount(classes, minlength=self.num_labels)
            for classes in (found_N[scores.is_hit_N], found_N, scores.classes_N)
        ]
        counts = torch.cat([scores.is_hit_N.sum()[None], *by_class])
        return torch.cat([scores.losses_N.sum()[None], counts.to(scores.losses_N.dtype)])

    def counts(self, texts: Texts) -> list[int]:
        """Labels, for each."""
        return [sum(texts.label_counts)] * (2 + 3 * self.num_labels)

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """`accuracy`, and as `f1` the mean over the classes that occur among labels or answers."""
        _, accuracy, *shares = means
        right, taken, own = (shares[at : at + self.num_labels] for at in range(0, len(shares), self.num_labels))
        of_classes = [
            2 * right_share / (taken_share + own_share)
            for right_share, taken_share, own_share in zip(right, taken, own, strict=True)
            if taken_share + own_share > 0
        ]
        return {"accuracy": accuracy, "f1": sum(of_classes) / max(1, len(of_classes))}
