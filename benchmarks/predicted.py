"""Bytes of a pack by the parts of `raylora estimate`, which predicts a run alone."""

from __future__ import annotations

from transformers import PretrainedConfig

from raylora.spec.run import RunSpec
from raylora.train.estimate import estimate


def pack_bytes(spec: RunSpec, config: PretrainedConfig, num_slots: int, device: str) -> dict[str, int]:
    """Predict a pack of like slots in one process.

    A pass of the pack holds what a run's would whose micro-batch has the rows of all slots; adapter, gradient and
    optimizer state are there as often as there are slots.

    Args:
        spec: Of each slot.
        config: Of the base.
        num_slots: Slots that are admitted, all at work.
        device: ``cpu`` or ``cuda``.
    """
    together = spec.model_copy(update={"micro_batch_size": num_slots * spec.micro_batch_size})
    rank = estimate(together, config, world_size=1, device=device).ranks[0]
    slot_bytes = rank.adapters_bytes + rank.gradients_bytes + rank.optimizer_bytes
    return {
        "base_bytes": rank.base_bytes,
        "slot_bytes": slot_bytes,
        "slots_bytes": num_slots * slot_bytes,
        "peak_bytes": rank.peak_bytes + (num_slots - 1) * slot_bytes,
    }
