"""What each rank will hold and gather of a base: arithmetic on shapes, before anything is placed.

Called by `train.prediction.estimate`; tests hold it against placed models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raylora.spec.fields.place import DistributedSpec

StrategyKind = Literal["ddp", "fsdp", "zero1", "zero2", "zero3"]

LIVE_BLOCKS = 2
"""Largest blocks that ZeRO-3 may gather: the one that runs and the next."""


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


@dataclass(frozen=True)
class Gradients:
    """Bytes that a rank holds for the adapters' gradients, by part of a step.

    Args:
        resident_bytes: At all times.
        held_bytes: From one micro-batch of a step to the next.
        backward_bytes: In a backward pass, while activations are there.
        reduced_bytes: At its end, when the ranks sum.
    """

    resident_bytes: int = 0
    held_bytes: int = 0
    backward_bytes: int = 0
    reduced_bytes: int = 0


def gradients(kind: StrategyKind, all_bytes: int, part_bytes: int, accumulates: bool) -> Gradients:
    """What is held for gradients; DeepSpeed's engine makes them in each backward pass, and a bucket of all of them.

    Args:
        kind: Strategy.
        all_bytes: Of all gradients.
        part_bytes: Of those whose optimizer state this rank keeps.
        accumulates: Whether a step has several micro-batches.
    """
    if kind == "zero1":  # the bucket is emptied at the step
        held_bytes = 2 * all_bytes if accumulates else 0
        return Gradients(0, held_bytes, max(held_bytes, all_bytes), 2 * all_bytes)
    if kind == "zero2":  # every pass ends with this rank's part alone
        held_bytes = part_bytes if accumulates else 0
        return Gradients(0, held_bytes, held_bytes + all_bytes, 2 * all_bytes + part_bytes)
    return Gradients(resident_bytes=all_bytes)


def strategy_kind(place: DistributedSpec) -> StrategyKind:
    """The strategy's name as it is printed."""
    if place.strategy == "deepspeed":
        kinds: tuple[StrategyKind, ...] = ("zero1", "zero2", "zero3")
        return kinds[place.zero_stage - 1]
    return place.strategy


def piece(kind: StrategyKind, shape: Sequence[int], rank: int, world_size: int) -> Piece:
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
    kind: StrategyKind, world_size: int, block_bytes: Sequence[int], root_bytes: int, largest_bytes: int
) -> Gathered:
    """Whole parameters that a rank holds while it runs.

    Args:
        kind: Strategy.
        world_size: Number of workers; one alone gathers nothing.
        block_bytes: Whole bytes of each block.
        root_bytes: Whole bytes of what no block holds.
        largest_bytes: Whole bytes of the largest parameter that no block holds: embedding or head.
    """
    if world_size == 1 or kind not in ("fsdp", "zero3"):
        return Gathered()
    block = max(block_bytes, default=0)
    if kind == "fsdp":
        # The root stays gathered through the step. A block is there twice: one buffer as it arrived, one copied out;
        # in the backward pass the second is the next block's, which arrives early.
        twice = root_bytes + 2 * block
        return Gathered(2 * root_bytes, twice, root_bytes + block, twice)
    # The head is gathered ahead while the last blocks run; large as it is, nothing else is beside it.
    live = min(LIVE_BLOCKS * block, sum(block_bytes))
    return Gathered(largest_bytes, live + largest_bytes, max(live, largest_bytes), live)
