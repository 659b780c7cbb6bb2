"""What `adapter: full` and the optimizers made for it go with; `run.py` has these rules first.

A run's fields enter, what they break leaves.
"""

from __future__ import annotations

from raylora.spec.fields.run import RunFields
from raylora.spec.rules.rule import Rule, registrar
from raylora.spec.text.show import show

FULL_RULES: list[Rule[RunFields]] = []
rule = registrar(FULL_RULES)


@rule("load_in_4bit", "load_in_8bit", "adapter")
def _on_a_plain_base(run: RunFields) -> str | None:
    """`adapter: full` trains a base that is not quantized."""
    if run.trains_base and run.quantization != "none":
        return (
            f"got a base in {run.quantization} with adapter: full, which trains the base's own weights, and packed ones "
            "cannot be; set load_in_4bit and load_in_8bit to false, or use adapter: lora"
        )
    return None


@rule("lora_dropout", "lora_target_modules", "adapter")
def _all_weights(run: RunFields) -> str | None:
    """`adapter: full` trains all weights: it has no `lora_dropout`, and `lora_target_modules` stays `all-linear`."""
    if not run.trains_base:
        return None
    set_to = {
        f"lora_dropout: {run.lora_dropout:g}": run.lora_dropout > 0,
        f"lora_target_modules: {show(run.lora_target_modules)}": run.lora_target_modules != "all-linear",
    }
    asked = [text for text, is_set in set_to.items() if is_set]
    return (
        f"got {', '.join(asked)} with adapter: full, which trains all weights of the base as they are; remove them, or "
        "use adapter: lora"
        if asked
        else None
    )


@rule("galore_rank", "optimizer", "adapter", "distributed.strategy")
def _galore(run: RunFields) -> str | None:
    """`optimizer: galore_adamw` goes with `adapter: full` under `ddp`."""
    if run.optimizer != "galore_adamw":
        return None
    if not run.trains_base:
        return (
            f"optimizer: galore_adamw projects the gradients of large weights, and adapter: {run.adapter} trains small "
            "ones; set adapter: full, or optimizer: adamw_torch"
        )
    if run.distributed.strategy != "ddp":
        return (
            "optimizer: galore_adamw decomposes the gradient of each weight as a whole, and distributed.strategy: "
            f"{run.distributed.strategy} leaves a worker a part of it; use ddp, or optimizer: adamw_torch"
        )
    return None


@rule("distributed.strategy", "distributed.zero_stage", "optimizer", "adapter")
def _sharded_weights(run: RunFields) -> str | None:
    """`adapter: full` is sharded by `fsdp` with `optimizer: adamw_torch`, and not by DeepSpeed stage 3."""
    if not run.trains_base or not run.shards_base:
        return None
    if run.distributed.strategy == "deepspeed":
        return (
            "got deepspeed stage 3 with adapter: full; in float32 and bfloat16 its engine also updates on a gradient that "
            "is not finite, which no run here may: use strategy: fsdp, which shards weights, gradients and moments alike, "
            "or zero_stage: 2"
        )
    if run.optimizer not in ("adamw_torch", "galore_adamw"):
        return (
            f"got {run.distributed.strategy} with adapter: full and optimizer: {run.optimizer}, whose scales of moments "
            "belong to no weight, so that they cannot be joined from shards for a checkpoint: use adamw_torch, or ddp"
        )
    return None
