"""What slots' micro-batches come to under their objectives, and the points that some are measured from.

Micro-batches enter; sums of measures leave. Called by the step and by evaluation, on every rank equally often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

import torch
from torch import Tensor

from raylora.data.collate import Batch
from raylora.model.rows.route import Span
from raylora.objectives.kto import gain_of, reference_point
from raylora.objectives.objective import Texts
from raylora.train.forward import Piece, beside_reference, idle_losses, not_training, scores_of
from raylora.train.trainee import Trainee

Points = Mapping[int, Tensor]
"""By slot the reference point of its step or evaluation."""


def texts_of(batch: Batch) -> Texts:
    """What an objective asks of a batch's texts."""
    return Texts(batch.label_counts, batch.is_desirable, batch.label_weights)


def sums_of(trainee: Trainee, pieces: Sequence[Piece], points: Points) -> list[Tensor]:
    """One forward pass, after one without adapters where there is a reference.

    Args:
        trainee: The base and its slots.
        pieces: One a slot, at least one.
        points: Of the slots, where their objective asks for them.

    Shapes:
        Returns of each piece the (M,) sums of its measures.
    """
    scores = (beside_reference if trainee.needs_reference else scores_of)(trainee, pieces)
    return [
        trainee.objectives[piece.span.slot].sums(
            replace(found, point=points.get(piece.span.slot)), texts_of(piece.batch)
        )
        for piece, found in zip(pieces, scores, strict=True)
    ]


def idle_sums(trainee: Trainee) -> Tensor:
    """The passes of `sums_of` with rows of nobody; other ranks need this one's part of the base.

    Shapes:
        Returns (0,).
    """
    if trainee.needs_reference:
        with not_training(trainee):
            idle_losses(trainee)
    return idle_losses(trainee)


def points_of(trainee: Trainee, mismatched: Mapping[int, Sequence[Batch]], num_passes: int) -> Points:
    """The reference point of each slot: one over all its rows, of all ranks and micro-batches; a collective call.

    Passes are without gradient and dropout; whether the base trains is left as it was.

    Args:
        trainee: The base and its slots.
        mismatched: By slot this rank's; equally many on every rank that shares the slot. Slots without any have no
            point.
        num_passes: Of the rank that has most, where ranks gather the base together; else this rank's.
    """
    if not num_passes:
        return {}
    totals: dict[int, list[Tensor]] = {slot: [] for slot, batches in mismatched.items() if batches}
    together = list(zip_longest(*(mismatched[slot] for slot in totals)))
    with not_training(trainee):
        for batches in together:
            pieces = [
                Piece(Span(slot), batch) for slot, batch in zip(totals, batches, strict=True) if batch is not None
            ]
            for piece, scores in zip(pieces, beside_reference(trainee, pieces), strict=True):
                gain = gain_of(scores)
                totals[piece.span.slot].append(torch.stack([gain, gain.new_tensor(len(piece.batch.label_counts))]))
        for _ in range(num_passes - len(together)):
            idle_sums(trainee)
    found = {slot: trainee.slot_ranks.sum(torch.stack(of_slot).sum(0)) for slot, of_slot in totals.items()}
    return {slot: reference_point(gain, num_texts) for slot, (gain, num_texts) in found.items()}
