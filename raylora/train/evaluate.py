"""What validation rows come to: loss, and what else the objective tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from raylora.data.batches import Batches
from raylora.model.route import Span
from raylora.objectives.objective import Measured, measured
from raylora.train.forward import Piece, idle_losses, losses_of, not_training, reference_losses
from raylora.train.trainee import Trainee


@torch.no_grad()
def evaluate(trainee: Trainee, validation: Mapping[int, Batches]) -> dict[int, Measured]:
    """The objective of some slots over all their validation rows.

    Args:
        trainee: The base and its slots; dropout is off meanwhile.
        validation: By slot; dealt out so that every rank that shares a slot runs equally many batches.

    Returns:
        By slot the same numbers on every rank that shares it.
    """
    ranks = trainee.slot_ranks
    batches = {slot: list(rows.once(ranks.rank, ranks.world_size)) for slot, rows in validation.items()}
    passes = list(zip_longest(*batches.values()))
    (num_passes,) = trainee.num_passes(len(passes))
    num_idle = num_passes - len(passes)
    if not passes and not num_idle:  # as after most steps, and the modes of a thousand modules take milliseconds
        return {}
    trainee.train_mode(False)
    totals: dict[int, list[Tensor]] = {slot: [] for slot in validation}
    for together in passes:
        pieces = [Piece(Span(slot), batch) for slot, batch in zip(batches, together, strict=True) if batch is not None]
        for piece, total in zip(pieces, _totals(trainee, pieces), strict=True):
            totals[piece.span.slot].append(total)
    for _ in range(num_idle):
        if trainee.needs_reference:
            with not_training(trainee):
                idle_losses(trainee)
        idle_losses(trainee)
    trainee.strategy.rest(trainee.model)
    trainee.train_mode(True)
    found = {slot: ranks.sum(torch.stack(of_slot).sum(0)) for slot, of_slot in totals.items()}
    return {
        slot: measured(trainee.objectives[slot], (sums / counts).tolist()) for slot, (sums, counts) in found.items()
    }


def _totals(trainee: Trainee, pieces: Sequence[Piece]) -> Iterator[Tensor]:
    """Of each piece the sums of its measures and what they are divided by. Shape: (2, M), float64."""
    references = reference_losses(trainee, pieces) if trainee.needs_reference else [None] * len(pieces)
    for piece, losses_N, reference_N in zip(pieces, losses_of(trainee, pieces), references, strict=True):
        objective, label_counts = trainee.objectives[piece.span.slot], piece.batch.label_counts
        sums_M = objective.sums(losses_N, label_counts, reference_N).double()
        yield torch.stack([sums_M, sums_M.new_tensor(objective.counts(label_counts))])
