"""Loss on the validation rows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import torch

from raylora.data.batches import Batches
from raylora.model.route import Span
from raylora.train.build import Trainee
from raylora.train.forward import Piece, idle_losses, losses_of


@torch.no_grad()
def evaluate(trainee: Trainee, validation: Mapping[int, Batches]) -> dict[int, float]:
    """Mean loss of some slots over all labelled tokens of their validation rows.

    Args:
        trainee: The base and its slots; dropout is off meanwhile.
        validation: By slot; dealt out so that every rank that shares a slot runs equally many batches.

    Returns:
        By slot the same number on every rank that shares it.
    """
    ranks = trainee.slot_ranks
    totals = {slot: torch.zeros(2, dtype=torch.float64, device=trainee.device) for slot in validation}
    batches = {slot: list(rows.once(ranks.rank, ranks.world_size)) for slot, rows in validation.items()}
    passes = list(zip_longest(*batches.values()))
    num_idle = trainee.num_passes(len(passes)) - len(passes)
    if not passes and not num_idle:  # as after most steps, and the modes of a thousand modules take milliseconds
        return {}
    trainee.train_mode(False)
    for together in passes:
        pieces = [Piece(Span(slot), batch) for slot, batch in zip(batches, together, strict=True) if batch is not None]
        for piece, losses_N in zip(pieces, losses_of(trainee, pieces), strict=True):
            totals[piece.span.slot] += torch.tensor(
                [float(losses_N.sum()), piece.batch.num_label_tokens], device=trainee.device
            )
    for _ in range(num_idle):
        idle_losses(trainee)
    trainee.strategy.rest(trainee.model)
    trainee.train_mode(True)
    sums = {slot: ranks.sum(total).tolist() for slot, total in totals.items()}
    return {slot: loss / count for slot, (loss, count) in sums.items()}
