"""Fields that must fit together: a run's fields enter, the rules they break leave.

`RunSpec` asks when one is made, `reading/load.py` when a file is read. A rule judges values only, never whether a field was
written or left to its default, so that a written-out configuration means the same as a short one.
"""

from __future__ import annotations

import re

from raylora.errors import Problem
from raylora.spec.fields.run import RunFields
from raylora.spec.rules.adapter import ADAPTER_RULES
from raylora.spec.rules.full import FULL_RULES
from raylora.spec.rules.rule import Rule, broken, registrar
from raylora.spec.rules.task import TASK_RULES

HOLDING = {
    "preference": "hold pairs of answers; set rl: dpo, ipo, orpo or reward",
    "unpaired_preference": "hold answers that are desirable or not; set rl: kto",
}
"""Types of datasets that `rl` learns from: what they hold, and under which."""

RULES: list[Rule[RunFields]] = [*FULL_RULES, *ADAPTER_RULES]
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


@rule("rl", "datasets", "test_datasets", "train_on_inputs", "adapter")
def _pairs(run: RunFields) -> str | None:
    """`rl` learns from datasets of type `preference`, under `kto` of type `unpaired_preference`, and only it does; it goes without `train_on_inputs` but under `orpo`, and `dpo`, `ipo` and `kto` without `adapter: full`."""
    types = {dataset.type for dataset in (*run.datasets, *run.test_datasets)}
    if run.rl is None and (learned := sorted(types & HOLDING.keys())):
        return f"datasets of type {learned[0]} {HOLDING[learned[0]]}, or another type"
    if run.rl is None:
        return None
    wanted = "unpaired_preference" if run.rl == "kto" else "preference"
    if others := ", ".join(sorted(types - {wanted})):
        return f"got {run.rl}, which learns from datasets of type {wanted}; got type {others}: set it, or remove rl"
    if run.train_on_inputs and run.rl != "orpo":
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


@rule("excess_length_strategy", "datasets", "test_datasets", "sequence_len")
def _pieces_of_texts(run: RunFields) -> str | None:
    """`excess_length_strategy: split` is for datasets of type `text`, with a `sequence_len` of at least 3."""
    if run.excess_length_strategy != "split":
        return None
    if others := sorted({dataset.type for dataset in (*run.datasets, *run.test_datasets)} - {"text"}):
        return (
            f"got split with datasets of type {', '.join(others)}; only those of type text are split, since a piece of "
            "another row would stand without its question, or without its answer: set truncate, drop or raise"
        )
    if run.sequence_len < 3:
        return f"got split with sequence_len: {run.sequence_len}, whose pieces teach nothing; raise it to 3 or more"
    return None


RULES += TASK_RULES
