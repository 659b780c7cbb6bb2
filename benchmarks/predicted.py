"""Bytes of a pack of like slots in one process, by the parts that `raylora.train.prediction.estimate` predicts."""

from __future__ import annotations

from transformers import PretrainedConfig

from raylora.spec.run import RunSpec
from raylora.train.prediction.estimate import estimate_pack


def pack_bytes(spec: RunSpec, config: PretrainedConfig, device: str, num_slots: int) -> dict[str, int]:
    """Predict a pack.

    Args:
        spec: The run in every slot, with one worker.
        config: Of the base.
        device: ``cpu`` or ``cuda``.
        num_slots: Slots, all at work.

    Returns:
        The base, what all slots hold between steps and one of them, and the peak.
    """
    rank = estimate_pack([spec] * num_slots, config, device).ranks[0]
    slots_bytes = rank.adapters_bytes + rank.gradients_bytes + rank.optimizer_bytes
    return {
        "base_bytes": rank.base_bytes,
        "slot_bytes": slots_bytes // num_slots,
        "slots_bytes": slots_bytes,
        "peak_bytes": rank.peak_bytes,
    }
