"""What gathering a sharded base takes at least: plain collectives over its shards, block by block as in a step."""

from __future__ import annotations

from time import perf_counter

import torch
import torch.distributed as dist

from raylora.model.base.load import blocks
from raylora.train.trainee import Trainee


def gather_s(trainee: Trainee) -> float:
    """Seconds of gathering every block twice, forward and backward, and the rest once; a collective call.

    What is gathered goes into memory that is there already. A base that is not sharded takes none.

    Args:
        trainee: A placed base.
    """
    if not trainee.strategy.shards_base:
        return 0.0
    # Uneven shards travel padded to the largest.
    sizes = [max(of_ranks) for of_ranks in zip(*trainee.ranks.gather(_shards(trainee)), strict=True)]
    num_ranks = trainee.ranks.world_size
    shard, whole = torch.empty(max(sizes), dtype=torch.uint8), torch.empty(max(sizes) * num_ranks, dtype=torch.uint8)
    whole.zero_()  # touched for the first time here and not below
    trainee.ranks.gather(None)  # all ranks start together
    start = perf_counter()
    for size in sizes:
        dist.all_gather_into_tensor(whole[: size * num_ranks], shard[:size])
    return perf_counter() - start


def _shards(trainee: Trainee) -> list[int]:
    """Bytes that this rank holds of each thing that is gathered in a step."""
    held = {id(parameter): trainee.strategy.held_bytes(parameter) for parameter in trainee.base}
    of_blocks = [
        sum(held.pop(id(parameter), 0) for parameter in block.parameters()) for block in blocks(trainee.model).values()
    ]
    return [*of_blocks, *of_blocks, sum(held.values())]
