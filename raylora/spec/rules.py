"""Fields that must fit together: a run's fields enter, the rules they break leave.

`RunSpec` asks when one is made, `load.py` when a file is read. A rule judges values only, never whether a field was
written or left to its default, so that a written-out configuration means the same as a short one.
"""

from __future__ import annotations

import re

import regex

from raylora.errors import Problem
from raylora.spec.full_rules import FULL_RULES
from raylora.spec.pattern import compiled
from raylora.spec.peft_block import OWN, WHY_NOT_ZERO3, why_no_block
from raylora.spec.phases import why_no_phases
from raylora.spec.rule import Rule, broken, registrar
from raylora.spec.run_fields import RunFields
from raylora.spec.show import show
from raylora.spec.task_rules import TASK_RULES

STARTS = r"eva|gaussian|loftq|olora|pissa(_niter_[1-9]\d{0,3})?"
"""Values of `init_lora_weights` beside `true`, in PEFT's spelling."""

HOLDING = {
    "preference": "hold pairs of answers; set rl: dpo, ipo, orpo or reward",
    "unpaired_preference": "hold answers that are desirable or not; set rl: kto",
}
"""Types of datasets that `rl` learns from: what they hold, and under which."""

RULES: list[Rule[RunFields]] = list(FULL_RULES)
rule = registrar(RULES)


def broken_rules(run: RunFields, unknown: frozenset[str] = frozenset()) -> tuple[Problem, ...]:
    """Ask the rules of a run, and return what they find broken.

    Args:
        run: Its fields, each valid by itself.
        unknown: Fields whose values are stand-ins; rules that look at one are not asked.
    """
    return tuple(broken(RULES, run, unknown))


@rule("load_in_8bit", "load_in_4bit")
def _one_quantization(run: RunFields) -> str | None:
    """`load_in_4bit` and `load_in_8bit` exclude each other."""
    if run.load_in_4bit and run.load_in_8bit:
        return "both load_in_8bit and load_in_4bit are true; a base is held in one of them: remove the other"
    return None


@rule("bnb_4bit_quant_storage", "load_in_4bit", "load_in_8bit", "distributed.strategy", "distributed.zero_stage")
def _sharded_storage(run: RunFields) -> str | None:
    """A quantized base that is sharded (`fsdp`, ZeRO-3) is not stored as `uint8`."""
    if run.quantization != "none" and run.shards_base and run.bnb_4bit_quant_storage == "uint8":
        return (
            "uint8 cannot be sharded: integer weights stay whole on every worker, or train silently to a loss of 0 or "
            "NaN (accelerate#3983); remove the line, `auto` stores in the compute dtype, or use distributed.strategy: ddp"
        )
    return None


@rule("distributed.cpu_offload", "distributed.strategy", "adapter")
def _offload_needs_shards(run: RunFields) -> str | None:
    """`cpu_offload` needs a strategy that shards, and a base that stays as it is: not `adapter: full`."""
    if run.distributed.cpu_offload and run.distributed.strategy == "ddp":
        return "ddp keeps the whole base on every device and offloads nothing; use strategy: fsdp or deepspeed, or remove it"
    if run.distributed.cpu_offload and run.trains_base:
        return "adapter: full updates the base's weights on the device; remove it and take more workers, or use adapter: lora"
    return None


@rule("distributed.min_workers", "distributed.num_workers")
def _fewest_of_most(run: RunFields) -> str | None:
    """`min_workers` is at most `num_workers`."""
    place = run.distributed
    if place.min_workers is not None and place.min_workers > place.num_workers:
        return f"got {place.min_workers}, more than num_workers: {place.num_workers}; lower one or raise the other"
    return None


@rule("peft", *OWN, "distributed.strategy", "distributed.zero_stage")
def _peft_alone(run: RunFields) -> str | None:
    """`peft` names its `peft_type`, goes with no field of raylora's own adapters, and does not run under DeepSpeed stage 3."""
    return why_no_block(run)


@rule("adapter_bank", "distributed.strategy", "distributed.zero_stage")
def _bank_under_zero3(run: RunFields) -> str | None:
    """`adapter_bank: peft` does not run under DeepSpeed stage 3."""
    if run.adapter_bank == "peft" and run.is_under_zero3:
        return f"adapter_bank: peft does not run under deepspeed stage 3, {WHY_NOT_ZERO3}; use adapter_bank: packed"
    return None


@rule("optimizer", "distributed.strategy", "distributed.zero_stage")
def _optimizer_under_zero12(run: RunFields) -> str | None:
    """DeepSpeed stages 1 and 2 partition the optimizer's state and need `optimizer: adamw_torch`."""
    place = run.distributed
    if place.strategy == "deepspeed" and place.zero_stage < 3 and run.optimizer not in ("adamw_torch", "galore_adamw"):
        return (
            f"got {run.optimizer}; deepspeed stage {place.zero_stage} partitions the state of torch's AdamW only: "
            "use optimizer: adamw_torch, or zero_stage: 3, or strategy: fsdp"
        )
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


@rule("rl", "datasets", "test_datasets", "train_on_inputs", "adapter")
def _pairs(run: RunFields) -> str | None:
    """`rl` learns from datasets of type `preference`, under `kto` of type `unpaired_preference`, and only it does; it goes without `train_on_inputs`, and `dpo`, `ipo` and `kto` without `adapter: full`."""
    types = {dataset.type for dataset in (*run.datasets, *run.test_datasets)}
    if run.rl is None and (learned := sorted(types & HOLDING.keys())):
        return f"datasets of type {learned[0]} {HOLDING[learned[0]]}, or another type"
    if run.rl is None:
        return None
    wanted = "unpaired_preference" if run.rl == "kto" else "preference"
    if others := ", ".join(sorted(types - {wanted})):
        return f"got {run.rl}, which learns from datasets of type {wanted}; got type {others}: set it, or remove rl"
    if run.train_on_inputs:
        return f"got {run.rl} with train_on_inputs: true, but answers are compared without their prompts; remove it"
    if run.rl in ("dpo", "ipo", "kto") and run.trains_base:
        return (
            f"got {run.rl} with adapter: full; its reference is the base without the adapter, and here the base itself "
            "trains: use orpo, which has no reference, or adapter: lora"
        )
    return None


@rule("warmup_steps", "warmup_ratio")
def _one_warmup(run: RunFields) -> str | None:
    """Warm-up is given by `warmup_steps` or by `warmup_ratio`."""
    if run.warmup_steps is not None and run.warmup_ratio > 0:
        return f"warmup_steps: {run.warmup_steps} and warmup_ratio: {run.warmup_ratio} both set the warm-up; remove one"
    return None


@rule("warmup_ratio", "decay_ratio", "lr_scheduler")
def _warmup_and_decay_fit(run: RunFields) -> str | None:
    """Under `warmup_stable_decay` warm-up and decay together take at most all steps."""
    if run.lr_scheduler == "warmup_stable_decay" and run.warmup_ratio + run.decay_ratio > 1:
        return (
            f"decay_ratio: {run.decay_ratio} and warmup_ratio: {run.warmup_ratio} take more than all steps; lower one"
        )
    return None


@rule("test_datasets", "val_set_size")
def _one_validation_source(run: RunFields) -> str | None:
    """Validation rows come from `test_datasets` or are split off by `val_set_size`."""
    if run.test_datasets and run.val_set_size > 0:
        return f"test_datasets are given, so val_set_size: {run.val_set_size:g} has nothing to do; remove one of them"
    return None


@rule("val_set_size")
def _whole_rows(run: RunFields) -> str | None:
    """`val_set_size` from 1 on is a whole number of rows."""
    if run.val_set_size >= 1 and run.val_set_size != int(run.val_set_size):
        return f"got {run.val_set_size}; allowed: a fraction below 1, or a whole number of rows"
    return None


@rule("eval_steps", "test_datasets", "val_set_size")
def _evaluation_needs_rows(run: RunFields) -> str | None:
    """`eval_steps` needs validation rows."""
    if run.eval_steps is not None and not run.validates:
        return "there are no validation rows to evaluate; set val_set_size (for example 0.05) or test_datasets"
    return None


@rule("early_stopping_patience", "eval_steps", "test_datasets", "val_set_size")
def _early_stopping_needs_evaluation(run: RunFields) -> str | None:
    """`early_stopping_patience` needs `eval_steps` and validation rows."""
    if run.early_stopping_patience is None or (run.validates and run.eval_steps is not None):
        return None
    lacking = [] if run.validates else ["validation rows (val_set_size or test_datasets)"]
    lacking += ["eval_steps"] if run.eval_steps is None else []
    return f"stopping early needs a validation loss every few steps; set {' and '.join(lacking)}"


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


@rule("chat_template")
def _template_is_jinja_or_path(run: RunFields) -> str | None:
    """`chat_template` is Jinja or a path, never the name of a template."""
    template = run.chat_template
    if template is not None and not re.search(r"\{[{%]|[/.]", template):
        return (
            f"got {template!r}, which is neither Jinja nor a file's path; templates have no names here: remove the "
            "line for the tokenizer's own template, or give the path of a file with one"
        )
    return None


RULES += TASK_RULES
