"""What each rank will hold and gather of a frozen base: arithmetic on shapes, before anything is placed.

Called by `train.estimate`; tests hold it against placed models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raylora.spec.place import DistributedSpec

Kind = Literal["ddp", "fsdp", "zero1", "zero2", "zero3"]

LIVE_VALUES = 5e8
"""Values that ZeRO-3 keeps gathered between forward and backward: half of DeepSpeed's `stage3_max_reuse_distance`."""
PREFETCH_VALUES = 5e7
"""Values that ZeRO-3 gathers ahead: DeepSpeed's `stage3_prefetch_bucket_size`."""


@dataclass(frozen=True)
class Piece:
    """What one rank holds of one parameter.

    Args:
        start: First value of the flattened parameter.
        stop: Value after the last.
        num_stored: Values stored, padding included.
    """

    start: int
    stop: int
    num_stored: int


@dataclass(frozen=True)
class Gathered:
    """Most bytes of whole parameters on a rank that shards them, by part of a step.

    Args:
        start_bytes: Before the first block.
        forward_bytes: In the blocks' forward pass.
        loss_bytes: In the output head and the loss.
        backward_bytes: In the blocks' backward pass.
    """

    start_bytes: int = 0
    forward_bytes: int = 0
    loss_bytes: int = 0
    backward_bytes: int = 0


def strategy_kind(place: DistributedSpec) -> Kind:
    """The strategy's name as it is printed."""
    if place.strategy == "deepspeed":
        kinds: tuple[Kind, ...] = ("zero1", "zero2", "zero3")
        return kinds[place.zero_stage - 1]
    return place.strategy


def piece(kind: Kind, shape: Sequence[int], rank: int, world_size: int) -> Piece:
    """What a rank holds of a parameter.

    Args:
        kind: Strategy.
        shape: Of the parameter.
        rank: 0 to `world_size` - 1.
        world_size: Number of workers.
    """
    numel = math.prod(shape)
    if kind == "fsdp":  # FSDP2 cuts the first dimension as torch.chunk does
        num_rows, per_row = shape[0], numel // shape[0]
        chunk = math.ceil(num_rows / world_size)
        start, stop = min(rank * chunk, num_rows) * per_row, min((rank + 1) * chunk, num_rows) * per_row
        return Piece(start, stop, stop - start)
    if kind == "zero3":  # ZeRO cuts the flattened parameter into equal parts and pads the last
        part = math.ceil(numel / world_size)
        return Piece(min(rank * part, numel), min((rank + 1) * part, numel), part)
    return Piece(0, numel, numel)


def gathered(
    kind: Kind, world_size: int, block_bytes: Sequence[int], root_bytes: int, num_values: int, num_largest: int
) -> Gathered:
    """Whole parameters that a rank holds while it runs.

    Args:
        kind: Strategy.
        world_size: Number of workers; one alone gathers nothing.
        block_bytes: Whole bytes of each block.
        root_bytes: Whole bytes of what no block holds.
        num_values: Values of the whole base as stored (a packed row counts its storage's).
        num_largest: Values of its largest parameter as stored.
    """
    if world_size == 1 or kind not in ("fsdp", "zero3"):
        return Gathered()
    if kind == "fsdp":
        # The root stays gathered through the step. A block is there twice: one buffer as it arrived, one copied out;
        # in the backward pass the second is the next block's, which arrives early.
        block = max(block_bytes, default=0)
        twice = root_bytes + 2 * block
        return Gathered(2 * root_bytes, twice, root_bytes + block, twice)
    whole = sum(block_bytes) + root_bytes
    kept = round(whole * min(1.0, LIVE_VALUES / num_values))
    ahead = round(whole * min(1.0, (PREFETCH_VALUES + num_largest) / num_values))
    return Gathered(0, kept + ahead, kept, kept if kept == whole else kept + ahead)
