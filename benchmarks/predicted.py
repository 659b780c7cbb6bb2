"""Bytes of a pack of like slots in one process, as the planner of sweeps predicts them."""

from __future__ import annotations

from transformers import PretrainedConfig

from raylora.spec.run import RunSpec
from raylora.train.estimate import estimate_pack
from raylora.train.pack_memory import PackMemory


def pack_bytes(spec: RunSpec, config: PretrainedConfig, device: str, *counts: int) -> dict[str, dict[str, int]]:
    """Predict packs.

    Args:
        spec: The run in every slot.
        config: Of the base.
        device: ``cpu`` or ``cuda``.
        counts: Slots of each pack, all at work.

    Returns:
        By the number of slots: the base, what one slot and all of them hold between steps, and the peak.
    """
    memory = PackMemory(spec, lambda specs: estimate_pack(specs, config, world_size=1, device=device))
    return {
        str(count): {
            "base_bytes": memory.at(count).ranks[0].base_bytes,
            "slot_bytes": memory.slot.num_bytes,
            "slots_bytes": count * memory.slot.num_bytes,
            "peak_bytes": memory.at(count).peak_bytes,
        }
        for count in counts
    }
