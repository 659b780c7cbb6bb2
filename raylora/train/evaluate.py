"""What validation rows come to: loss, and what else the objective tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from raylora.data.batches import Batches
from raylora.model.rows.route import Span
from raylora.objectives.objective import Measured, measured
from raylora.train.forward import Piece
from raylora.train.measure import Points, idle_sums, points_of, sums_of, texts_of
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
    asked = validation if trainee.needs_point else {}
    mismatched = {slot: list(rows.once_mismatched(ranks.rank, ranks.world_size)) for slot, rows in asked.items()}
    passes = list(zip_longest(*batches.values()))
    num_points, num_passes = trainee.num_passes(max(map(len, mismatched.values()), default=0), len(passes))
    num_idle = num_passes - len(passes)
    if not passes and not num_idle:  # as after most steps, and the modes of a thousand modules take milliseconds
        return {}
    trainee.train_mode(False)
    points = points_of(trainee, mismatched, num_points)
    totals: dict[int, list[Tensor]] = {slot: [] for slot in validation}
    for together in passes:
        pieces = [Piece(Span(slot), batch) for slot, batch in zip(batches, together, strict=True) if batch is not None]
        for piece, total in zip(pieces, _totals(trainee, pieces, points), strict=True):
            totals[piece.span.slot].append(total)
    for _ in range(num_idle):
        idle_sums(trainee)
    trainee.strategy.rest(trainee.model)
    trainee.train_mode(True)
    found = {slot: ranks.sum(torch.stack(of_slot).sum(0)) for slot, of_slot in totals.items()}
    return {
        slot: measured(trainee.objectives[slot], (sums / counts).tolist()) for slot, (sums, counts) in found.items()
    }


def _totals(trainee: Trainee, pieces: Sequence[Piece], points: Points) -> Iterator[Tensor]:
    """Of each piece the sums of its measures and what they are divided by. Shape: (2, M), float64."""
    for piece, sums_M in zip(pieces, sums_of(trainee, pieces, points), strict=True):
        counts = trainee.objectives[piece.span.slot].counts(texts_of(piece.batch))
        yield torch.stack([sums_M.double(), sums_M.new_tensor(counts, dtype=torch.float64)])
