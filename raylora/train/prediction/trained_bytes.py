"""What a rank holds of what trains: adapters or the base itself, gradients, the optimizer's state. Shapes alone.

Numbers of values, or the base's parameters, enter; counts leave. Called by `estimate`; tests hold it against what is
measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from raylora.spec.run import RunSpec
from raylora.strategy.shares import Gradients, StrategyKind, gradients, piece
from raylora.train.optim import projected_bytes, state_bytes, update_bytes
from raylora.train.prediction.base_bytes import StoredParameter

ALIGNMENT = 2
"""Values to which DeepSpeed aligns each rank's part of a flat group."""


@dataclass(frozen=True)
class Trained:
    """Bytes of what trains, on one rank.

    Args:
        adapters_bytes: Adapters, with what they hold and do not train; none where the base itself trains.
        optimizer_bytes: The optimizer's state; under ZeRO-1 and 2 with its own copy of what trains.
        gradients: By part of a step.
        update_bytes: What the optimizer takes for itself while it updates.
    """

    adapters_bytes: int
    optimizer_bytes: int
    gradients: Gradients
    update_bytes: int = 0


def trained_adapters(
    specs: Sequence[RunSpec], kind: StrategyKind, device: str, num_values: Sequence[int], beside_bytes: int
) -> Trained:
    """Adapters, in float32 and alike on every rank.

    Args:
        specs: The runs of the slots.
        kind: Strategy.
        device: ``cpu`` or ``cuda``.
        num_values: Values that train, by slot.
        beside_bytes: Of what the adapters hold and do not train.
    """
    spec, num_all = specs[0], sum(num_values)
    if kind in ("zero1", "zero2"):
        made = _by_engine(spec, kind, device, num_all, itemsize=4)
        return Trained(made.adapters_bytes + beside_bytes, made.optimizer_bytes, made.gradients)
    of_slots = list(zip(specs, num_values, strict=True))
    optimizer_bytes = sum(state_bytes(of_slot, number, device) for of_slot, number in of_slots)
    summed = gradients(kind, 4 * num_all, 4 * num_all, False)
    updating = max(update_bytes(of_slot, number, device) for of_slot, number in of_slots)
    return Trained(4 * num_all + beside_bytes, optimizer_bytes, summed, updating)


def trained_base(
    spec: RunSpec,
    kind: StrategyKind,
    device: str,
    rank: int,
    parameters: Sequence[StoredParameter],
    parts: tuple[Sequence[int], Sequence[int]],
    projected: Collection[str],
) -> Trained:
    """A base that trains itself.

    Args:
        spec: The run.
        kind: Strategy.
        device: ``cpu`` or ``cuda``.
        rank: 0 to `num_workers` - 1.
        parameters: Of the base.
        parts: Whole bytes of each block, and of each parameter that no block holds.
        projected: Names of weights whose moments GaLore keeps at its rank.
    """
    if kind in ("zero1", "zero2"):
        num_values = sum(each.num_parameters for each in parameters)
        made = _by_engine(spec, kind, device, num_values, parameters[0].itemsize)
        return Trained(0, made.optimizer_bytes, made.gradients)
    state = _state_bytes(spec, kind, device, rank, parameters, projected)
    if kind == "fsdp":
        return Trained(0, state, _scattered(spec, *parts))
    num_values = sum(each.num_parameters for each in parameters)
    return Trained(0, state, _whole(spec, *parts), update_bytes(spec, num_values, device, parameters[0].itemsize))


def _by_engine(spec: RunSpec, kind: StrategyKind, device: str, num_values: int, itemsize: int) -> Trained:
    """What DeepSpeed's engine makes of parameters: one flat row, and for each rank a part in float32 to step."""
    world_size = spec.distributed.num_workers
    part_values = math.ceil(num_values / (ALIGNMENT * world_size)) * ALIGNMENT
    made = gradients(kind, itemsize * num_values, 4 * part_values, spec.gradient_accumulation_steps > 1)
    return Trained(itemsize * part_values * world_size, 4 * part_values + state_bytes(spec, part_values, device), made)


def _whole(spec: RunSpec, blocks: Sequence[int], root: Sequence[int]) -> Gradients:
    """Gradients in a row, as large as the weights; GaLore's AdamW makes two tensors of each weight in turn."""
    beside = 2 * max(root) if spec.optimizer == "galore_adamw" else 0
    return Gradients(resident_bytes=sum(blocks) + sum(root), reduced_bytes=beside)


def _scattered(spec: RunSpec, blocks: Sequence[int], root: Sequence[int]) -> Gradients:
    """Gradients that FSDP2 sums and deals out as they come: the root's at the end, a block's out of a second buffer."""
    share = (sum(blocks) + sum(root)) // spec.distributed.num_workers
    held = share if spec.gradient_accumulation_steps > 1 else 0
    return Gradients(0, held, share + sum(root) + 2 * max(blocks, default=0), share + 2 * sum(root))


def _state_bytes(
    spec: RunSpec,
    kind: StrategyKind,
    device: str,
    rank: int,
    parameters: Sequence[StoredParameter],
    projected: Collection[str],
) -> int:
    if spec.optimizer == "galore_adamw":
        of_rank = [each for each in parameters if each.name in projected]
        kept = sum(projected_bytes(spec, (each.shape[0], each.shape[1]), each.itemsize) for each in of_rank)
        return kept + sum(2 * each.num_bytes for each in parameters if each.name not in projected)
    if kind == "ddp":  # all in one row
        return state_bytes(spec, sum(each.num_parameters for each in parameters), device, parameters[0].itemsize)
    pieces = [piece(kind, each.shape, rank, spec.distributed.num_workers) for each in parameters]
    return sum(
        state_bytes(spec, mine.stop - mine.start, device, each.itemsize)
        for each, mine in zip(parameters, pieces, strict=True)
    )
