"""Loss on the validation rows."""

from __future__ import annotations

import torch

from raylora.data.batches import Batches
from raylora.objectives.sft import slot_sums
from raylora.train.build import Trainee
from raylora.train.step import model_inputs


@torch.no_grad()
def evaluate(trainee: Trainee, validation: Batches) -> float:
    """Mean loss over all labelled tokens of the validation rows; the same number on every rank.

    Args:
        trainee: What is trained; dropout is off meanwhile.
        validation: Dealt out so that every rank runs equally many batches.
    """
    ranks, num_slots = trainee.ranks, trainee.bank.num_slots
    trainee.train_mode(False)
    totals = torch.zeros(2, num_slots, dtype=torch.float64, device=trainee.device)
    for batch in validation.once(ranks.rank, ranks.world_size):
        batch = batch.to(trainee.device)
        losses_N = trainee.loss(model_inputs(batch, trainee.model.dtype), batch.labels_BT)
        sums_K, counts_K = slot_sums(losses_N, batch.labels_BT, num_slots)
        totals += torch.stack([sums_K.double(), counts_K.double()])
    trainee.strategy.rest(trainee.model)
    trainee.train_mode(True)
    sums_K, counts_K = ranks.sum(totals)
    return float(sums_K[0] / counts_K[0])
