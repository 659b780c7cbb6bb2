"""The outputs of the slots' heads for labelled tokens or texts, out of which classifiers and rewards are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.head_seat import seat_of
from raylora.model.rows.first_tokens import first_tokens, rows_of
from raylora.objectives.objective import Scores
from raylora.objectives.readout import logits_of
from raylora.spec.fields.labels import IGNORED


class HeadScores:
    """Asks each slot's head about its labels, inside the model's own forward pass.

    A head that is one linear layer runs on labelled tokens only; one that looks at a whole line, on each line with a
    label. What a decoder's class for texts picks of the head's output (the last token that is no padding) is of no
    matter: every token is handed the scores of all labels.

    Args:
        model: With a head's seat.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        seat = seat_of(model)
        assert seat is not None
        self._model, self._seat = model, seat
        self._labels_BT: Tensor | None = None
        self._row_lengths: Sequence[int] | None = None
        seat.read = self._read

    def __call__(self, inputs: Mapping[str, Any], labels_BT: Tensor) -> Scores:
        """Of each label the class that it says, the head's output, and the cross-entropy of both.

        Args:
            inputs: As of `Readout`.
            labels_BT: As of `Readout`.

        Raises:
            ModelError: The model's forward pass cannot run, or its head looks at lines and one has several labels.
        """
        self._labels_BT, self._row_lengths = labels_BT, inputs.get("row_lengths")
        try:
            # One token's are all of them.
            scores_M = logits_of(self._model, inputs).flatten(0, -2)[0]
        finally:
            self._labels_BT = None
        classes_N = labels_BT.flatten()[_places((labels_BT != IGNORED).flatten())]
        logits_NL = scores_M.view(-1, self._seat.num_labels)
        if len(logits_NL) != len(classes_N):
            raise ModelError(
                f"base_model: the head of {type(self._model).__name__} gave {len(logits_NL)} answers to "
                f"{len(classes_N)} labels. Report this model's config.json"
            )
        return head_scores(classes_N, logits_NL)

    def _read(self, hidden: Tensor) -> Tensor:
        if self._labels_BT is None:
            return self._seat.unread(hidden)
        is_label_BT = self._labels_BT != IGNORED
        is_by_token = self._seat.is_by_token and hidden.ndim == is_label_BT.ndim + 1
        if is_by_token:
            rows = self._seat.heads.thinned(hidden).flatten(0, 1)[_places(is_label_BT.flatten())]
        else:
            rows = self._lines(hidden, is_label_BT)
        scores_M = self._seat.heads(rows).flatten()
        if is_by_token and self._seat.task_type == "seq_cls":
            return scores_M.expand(*hidden.shape[:-1], len(scores_M))
        return torch.stack([scores_M])  # no view: FSDP2 hangs its backward pass on what a model hands on

    def _lines(self, hidden: Tensor, is_label_BT: Tensor) -> Tensor:
        """Lines with a label; of rows on one line the first token of each with one, or what a pooler made of it."""
        if self._row_lengths is None:
            return hidden[_places(is_label_BT.any(1))]
        of_rows = hidden if hidden.ndim == is_label_BT.ndim else first_tokens(hidden, self._row_lengths)
        return of_rows[rows_of(_places(is_label_BT.flatten()), self._row_lengths)]


def _places(is_N: Tensor) -> Tensor:
    places_N: Tensor = is_N.nonzero().squeeze(1)
    return places_N


def head_scores(classes_N: Tensor, logits_NL: Tensor) -> Scores:
    """What a head's answers come to.

    Args:
        classes_N: The class that each label says, from 0.
        logits_NL: The head's output for each label; of one output, the losses are zero.
    """
    losses_N = F.cross_entropy(logits_NL, classes_N, reduction="none")
    is_hit_N = logits_NL.detach().argmax(1) == classes_N
    return Scores(losses_N, is_hit_N, classes_N=classes_N, logits_NL=logits_NL)
