"""Which runs can share one frozen base in one worker group. The sweep calls it, and the builder of a base's slots."""

from __future__ import annotations

import json

from raylora.spec.fields.run import RunFields

_BNB = {"bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"}
_SHARED = {
    "base_model",
    "base_model_revision",
    "load_in_4bit",
    "load_in_8bit",
    "dtype",
    "gradient_checkpointing",
    "sequence_len",
    "chat_template",
    "distributed",
    "ray",
    "rl",
    "task_type",
    "labels",
}
"""What decides the base, its placement, the worker group, and what a pass of the base computes."""


def pack_key(spec: RunFields) -> str:
    """Return what must be equal for two runs to share a pack, as canonical JSON; `why_alone` may still forbid it."""
    shared = _SHARED if spec.quantization == "none" else _SHARED | _BNB
    return json.dumps(spec.model_dump(mode="json", include=shared), sort_keys=True, separators=(",", ":"))


def why_alone(spec: RunFields) -> str | None:
    """Say why a run cannot share a pack; None where it can."""
    place = spec.distributed
    if spec.trains_base:
        return "adapter: full trains the base itself, which no other run can share; adapters leave it as it is"
    if spec.bank != "packed":
        given = "adapter_bank: peft" if spec.peft is None else "peft"
        return f"{given} holds one adapter; packed holds many"
    if spec.optimizer != "adamw_torch":
        return f"optimizer: {spec.optimizer} steps one adapter; adamw_torch steps many at once"
    if place.strategy == "deepspeed" and place.zero_stage < 3:
        return (
            f"deepspeed stage {place.zero_stage} partitions the optimizer's state, and its engine steps all adapters "
            "as one; stage 3, fsdp and ddp leave each adapter its own step"
        )
    return None
