"""Rules of a run about its adapter: kind, start, targets, ranks and bank; `run.py` asks them with all others."""

from __future__ import annotations

import re

import regex

from raylora.spec.fields.peft_block import OWN, WHY_NOT_ZERO3, why_no_block
from raylora.spec.fields.phases import why_no_phases
from raylora.spec.fields.run import RunFields
from raylora.spec.rules.rule import Rule, registrar
from raylora.spec.text.pattern import compiled
from raylora.spec.text.show import show

STARTS = r"eva|gaussian|loftq|olora|pissa(_niter_[1-9]\d{0,3})?"
"""Values of `init_lora_weights` beside `true`, in PEFT's spelling."""

ADAPTER_RULES: list[Rule[RunFields]] = []
rule = registrar(ADAPTER_RULES)


@rule("peft", *OWN, "distributed.strategy", "distributed.zero_stage")
def _peft_alone(run: RunFields) -> str | None:
    """`peft` names its `peft_type`, goes with no field of raylora's own adapters, and does not run under DeepSpeed stage 3, nor with `module_dropout` of LOHA and LOKR under stages 1 and 2."""
    return why_no_block(run)


@rule("adapter_bank", "distributed.strategy", "distributed.zero_stage")
def _bank_under_zero3(run: RunFields) -> str | None:
    """`adapter_bank: peft` does not run under DeepSpeed stage 3."""
    if run.adapter_bank == "peft" and run.is_under_zero3:
        return f"adapter_bank: peft does not run under deepspeed stage 3, {WHY_NOT_ZERO3}; use adapter_bank: packed"
    return None


@rule("init_lora_weights", "adapter_bank", "load_in_4bit", "load_in_8bit")
def _start(run: RunFields) -> str | None:
    """`init_lora_weights` is `true`, `gaussian` or, with `adapter_bank: packed`, `eva`, `olora`, `pissa` or `pissa_niter_16` and the like, or, over a quantized base, `loftq`."""
    start = run.init_lora_weights
    if start is not True and not re.fullmatch(STARTS, str(start)):
        return f"got {show(start)}; allowed: true, gaussian, eva, loftq, olora, pissa or, for 16 iterations, pissa_niter_16"
    if start not in (True, "gaussian") and run.adapter_bank == "peft":
        return (
            f"got {start} with adapter_bank: peft, which would take such a start off the frozen base, or has neither the "
            "base's files nor rows to start from; use adapter_bank: packed, or init_lora_weights: true"
        )
    if start == "loftq" and run.quantization == "none":
        return (
            "got loftq, which makes up for what quantization takes from the base, and this base is not quantized; set "
            "load_in_4bit: true or load_in_8bit: true, or init_lora_weights: true"
        )
    return None


@rule("use_dora", "init_lora_weights")
def _dora_or_start(run: RunFields) -> str | None:
    """`use_dora` does not go with a start in which B is not zero (`loftq`, `olora`, `pissa`)."""
    if run.use_dora and (run.starts_from_base or run.init_lora_weights == "loftq"):
        return (
            f"got true with init_lora_weights: {run.init_lora_weights}; DoRA's magnitudes are those of the weight as the "
            "base holds it, and such a start has another: use init_lora_weights: true, or use_dora: false"
        )
    return None


@rule("adapter", "use_dora", "use_rslora", "loraplus_lr_ratio", "init_lora_weights", "adapter_bank")
def _kind_alone(run: RunFields) -> str | None:
    """Other adapters than `lora` have none of its variants and need `adapter_bank: packed`."""
    if run.adapter == "lora":
        return None
    set_to = {
        "use_dora: true": run.use_dora,
        "use_rslora: true": run.use_rslora,
        f"loraplus_lr_ratio: {run.loraplus_lr_ratio:g}": run.loraplus_lr_ratio != 1,
        f"init_lora_weights: {show(run.init_lora_weights)}": run.init_lora_weights is not True,
        "adapter_bank: peft": run.adapter_bank == "peft",
    }
    variants = [text for text, is_set in set_to.items() if is_set]
    return (
        f"got {run.adapter} with {', '.join(variants)}, which are LoRA's; remove them, or use adapter: lora"
        if variants
        else None
    )


@rule("target_r", "adapter", "lora_r")
def _ranks_to_take(run: RunFields) -> str | None:
    """`adapter: adalora` needs a `target_r` below `lora_r`."""
    if run.adapter == "adalora" and run.target_r >= run.lora_r:
        return (
            f"got {run.target_r} with lora_r: {run.lora_r}, which leaves no rank to take away; lower it, or raise "
            "lora_r (half as many ranks again are usual), or use adapter: lora"
        )
    return None


@rule("tinit", "tfinal", "adapter", "max_steps")
def _phases_fit(run: RunFields) -> str | None:
    """`tinit` and `tfinal` of `adapter: adalora` are together below the run's steps, of which at least two come before the last `tfinal`."""
    return why_no_phases(run, run.max_steps) if run.adapter == "adalora" and run.max_steps is not None else None


@rule("distributed.zero_stage", "distributed.strategy", "adapter")
def _ranks_under_zero12(run: RunFields) -> str | None:
    """DeepSpeed stages 1 and 2 do not train `adapter: adalora`."""
    place = run.distributed
    if run.adapter == "adalora" and place.strategy == "deepspeed" and place.zero_stage < 3:
        return (
            f"got {place.zero_stage} with adapter: adalora, which judges ranks by gradients that this stage's engine "
            "keeps to itself; use zero_stage: 3, or strategy: fsdp or ddp"
        )
    return None


@rule("loraplus_lr_ratio", "distributed.strategy", "distributed.zero_stage")
def _rates_under_zero12(run: RunFields) -> str | None:
    """DeepSpeed stages 1 and 2 step all parameters at one rate and need `loraplus_lr_ratio: 1`."""
    place = run.distributed
    if place.strategy == "deepspeed" and place.zero_stage < 3 and run.loraplus_lr_ratio != 1:
        return (
            f"got {run.loraplus_lr_ratio:g}; deepspeed stage {place.zero_stage} steps the adapter as one flat row at one "
            "learning rate: use zero_stage: 3, strategy: fsdp or ddp, or loraplus_lr_ratio: 1"
        )
    return None


@rule("lora_target_modules")
def _targets_compile(run: RunFields) -> str | None:
    """A text in `lora_target_modules` other than `all-linear` is a valid regular expression of at most 1,000 characters."""
    if isinstance(run.lora_target_modules, str):
        try:
            compiled(run.lora_target_modules)
        except regex.error as error:
            return (
                f"got {show(run.lora_target_modules)}, which is no regular expression that can be used ({error}); "
                "write all-linear or a list of names such as [q_proj, v_proj]"
            )
    return None
