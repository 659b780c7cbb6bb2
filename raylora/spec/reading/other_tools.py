"""How other tools spell raylora's fields: tables and value readings. `aliases.py` applies them, `pages/reference.py` lists them.

Only names that those projects have or had: TRL's `SFTConfig`, `ModelConfig` and `ScriptArguments` with the
`TrainingArguments` beneath them, PEFT's `LoraConfig`, LLaMA-Factory's `hparams`, axolotl's `utils/schemas`.
A reading raises ValueError with the words for the user where raylora cannot do what the value asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raylora.spec.text.show import show

Reading = Callable[[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Alias:
    """One foreign key.

    Args:
        tool: Whose key it is.
        targets: Dotted paths of the fields that it can set.
        read: Turns its value into values by target; None where the value means the same.
        reads_null: Whether an empty value says something in that tool.
    """

    tool: str
    targets: tuple[str, ...]
    read: Reading | None = None
    reads_null: bool = False


def _renamed(tool: str, **targets: str) -> dict[str, Alias]:
    return {key: Alias(tool, (target.replace("__", "."),)) for key, target in targets.items()}


def _length(value: Any) -> Mapping[str, Any]:
    if value is None:
        raise ValueError("rows without a limit are not supported; write sequence_len: 4096 or what fits")
    return {"sequence_len": value}


def _quantization_bit(value: Any) -> Mapping[str, Any]:
    fields = {4: "load_in_4bit", 8: "load_in_8bit"}
    if value not in list(fields):
        raise ValueError(f"got {show(value)}; allowed: 4 or 8, or remove the line for an unquantized base")
    return {fields[value]: True}


def _targets(value: Any) -> Mapping[str, Any]:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    return {"lora_target_modules": "all-linear" if names in (["all"], "all") else names}


def _flag(value: Any) -> bool:
    """Take true and false alone: of text, `no` would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"got {show(value)}; allowed: true or false")
    return value


def _all_linear(value: Any) -> Mapping[str, Any]:
    return {"lora_target_modules": "all-linear"} if _flag(value) else {}


def _pissa(value: Any) -> Mapping[str, Any]:
    """LLaMA-Factory's PiSSA takes 16 iterations unless it is told otherwise."""
    return {"init_lora_weights": "pissa_niter_16"} if _flag(value) else {}


def _loss_on_answers(value: Any) -> Mapping[str, Any]:
    return {"train_on_inputs": not _flag(value)}


def _no_checkpointing(value: Any) -> Mapping[str, Any]:
    return {"gradient_checkpointing": not _flag(value)}


def _bf16(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, bool) and value not in ("auto", "full"):
        raise ValueError(f"got {show(value)}; allowed: true, false or auto")
    return {"dtype": {"auto": "auto", False: "float32"}.get(value, "bfloat16")}


def _fp16(value: Any) -> Mapping[str, Any]:
    if value != "auto" and _flag(value):
        raise ValueError(NO_FLOAT16)
    return {}


def _float32(value: Any) -> Mapping[str, Any]:
    return {"dtype": "float32"} if _flag(value) else {}


def _bfloat16(value: Any) -> Mapping[str, Any]:
    return {"dtype": "bfloat16"} if _flag(value) else {}


def _sources(field: str) -> Reading:
    """Read one or more dataset names, separated by commas, as entries of a list field."""

    def read(value: Any) -> Mapping[str, Any]:
        names = value.split(",") if isinstance(value, str) else value
        paths = [str(name).strip() for name in names] if isinstance(names, list) else []
        if not paths or not all(any(mark in path for mark in "/.*:") for path in paths):
            raise ValueError(
                f"got {show(value)}; names of dataset_info.json are not read: write {field}: [{{path: ..., type: ...}}]"
            )
        return {field: [{"path": path} for path in paths]}

    return read


def _special_tokens(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or set(value) - {"pad_token"}:
        raise ValueError(
            "only pad_token is read (padding is never seen); other tokens are the tokenizer's own: remove it"
        )
    return {}


NO_FLOAT16 = "float16 needs loss scaling, which raylora does not do; use dtype: bfloat16, or float32 on older devices"

TRL = "TRL"
LLAMA_FACTORY = "LLaMA-Factory"
AXOLOTL = "axolotl"

RUN_ALIASES: Mapping[str, Alias] = {
    **_renamed(
        TRL,
        model_name_or_path="base_model",
        model_revision="base_model_revision",
        torch_dtype="dtype",
        use_bnb_nested_quant="bnb_4bit_use_double_quant",
        per_device_train_batch_size="micro_batch_size",
        beta="rl_beta",
        desirable_weight="kto_desirable_weight",
        undesirable_weight="kto_undesirable_weight",
        num_train_epochs="num_epochs",
        lr_scheduler_type="lr_scheduler",
        optim="optimizer",
        packing="sample_packing",
        chat_template_path="chat_template",
        output_dir="storage__uri",
        save_total_limit="storage__keep_checkpoints",
        ddp_timeout="distributed__timeout_s",
    ),
    "max_length": Alias(TRL, ("sequence_len",), _length, reads_null=True),
    "max_seq_length": Alias(TRL, ("sequence_len",), _length, reads_null=True),
    "assistant_only_loss": Alias(TRL, ("train_on_inputs",), _loss_on_answers),
    "completion_only_loss": Alias(TRL, ("train_on_inputs",), _loss_on_answers),
    "bf16": Alias(TRL, ("dtype",), _bf16),
    "fp16": Alias(TRL, ("dtype",), _fp16),
    "dataset_name": Alias(TRL, ("datasets",), _sources("datasets")),
    **_renamed("PEFT", r="lora_r", target_modules="lora_target_modules", base_model_name_or_path="base_model"),
    **_renamed(
        LLAMA_FACTORY,
        finetuning_type="adapter",
        lora_rank="lora_r",
        cutoff_len="sequence_len",
        val_size="val_set_size",
        train_on_prompt="train_on_inputs",
        neat_packing="sample_packing",
        galore_update_interval="galore_update_proj_gap",
        quantization_type="bnb_4bit_quant_type",
        double_quantization="bnb_4bit_use_double_quant",
        preprocessing_num_workers="dataset_num_proc",
        pref_beta="rl_beta",
        kto_chosen_weight="kto_desirable_weight",
        kto_rejected_weight="kto_undesirable_weight",
        early_stopping_steps="early_stopping_patience",
        ray_num_workers="distributed__num_workers",
    ),
    "pissa_init": Alias(LLAMA_FACTORY, ("init_lora_weights",), _pissa),
    "quantization_bit": Alias(LLAMA_FACTORY, ("load_in_4bit", "load_in_8bit"), _quantization_bit),
    "lora_target": Alias(LLAMA_FACTORY, ("lora_target_modules",), _targets),
    "disable_gradient_checkpointing": Alias(LLAMA_FACTORY, ("gradient_checkpointing",), _no_checkpointing),
    "pure_bf16": Alias(LLAMA_FACTORY, ("dtype",), _bfloat16),
    "dataset": Alias(LLAMA_FACTORY, ("datasets",), _sources("datasets")),
    "eval_dataset": Alias(LLAMA_FACTORY, ("test_datasets",), _sources("test_datasets")),
    **_renamed(
        AXOLOTL,
        dataset_processes="dataset_num_proc",
        chat_template_jinja="chat_template",
        mlflow_tracking_uri="tracking__uri",
        mlflow_experiment_name="tracking__experiment",
        mlflow_run_name="run_name",
        dpo_beta="rl_beta",
        orpo_alpha="rl_beta",
        peft_use_dora="use_dora",
        peft_use_rslora="use_rslora",
        peft_init_lora_weights="init_lora_weights",
    ),
    "lora_target_linear": Alias(AXOLOTL, ("lora_target_modules",), _all_linear),
    "bfloat16": Alias(AXOLOTL, ("dtype",), _bfloat16),
    "float16": Alias(AXOLOTL, ("dtype",), _fp16),
    "float32": Alias(AXOLOTL, ("dtype",), _float32),
    "special_tokens": Alias(AXOLOTL, (), _special_tokens),
}
"""Foreign keys of a run."""

DATASET_ALIASES: Mapping[str, Alias] = _renamed(
    AXOLOTL, field_messages="columns__messages", field_tools="columns__tools"
)
"""Foreign keys of an entry of `datasets` or `test_datasets`."""


def _words(field: str, **words: str) -> Reading:
    """Read another tool's word for a value of a field; None of them where it is ours."""
    return lambda value: {field: words[value]} if isinstance(value, str) and value in words else {field: value}


def _adapter(value: Any) -> Mapping[str, Any]:
    return {"adapter": "lora", "load_in_4bit": True} if value == "qlora" else {"adapter": value}


def _max_steps(value: Any) -> Mapping[str, Any]:
    return {} if value == -1 else {"max_steps": value}


def _warmup_steps(value: Any) -> Mapping[str, Any]:
    is_ratio = isinstance(value, float) and 0 < value < 1
    return {"warmup_ratio" if is_ratio else "warmup_steps": value}


def _chat_template(value: Any) -> Mapping[str, Any]:
    return {} if value == "tokenizer_default" else {"chat_template": value}


def _dtype(value: Any) -> Mapping[str, Any]:
    if value in ("float16", "fp16", "half"):
        raise ValueError(NO_FLOAT16)
    return {"dtype": value}


def _task_type(value: Any) -> Mapping[str, Any]:
    """PEFT writes tasks in capitals."""
    return {"task_type": value.lower() if isinstance(value, str) else value}


RUN_VALUES: Mapping[str, Reading] = {
    "adapter": _adapter,
    "optimizer": _words("optimizer", adamw_torch_fused="adamw_torch", adamw_8bit="adamw_bnb_8bit"),
    "lr_scheduler": _words("lr_scheduler", constant_with_warmup="constant"),
    "max_steps": _max_steps,
    "warmup_steps": _warmup_steps,
    "chat_template": _chat_template,
    "dtype": _dtype,
    "task_type": _task_type,
}
"""Readings of our own fields' values, which return them unchanged where they are ours."""

DATASET_VALUES: Mapping[str, Reading] = {"type": _words("type", chat_template="chat")}
"""The same for an entry of `datasets` or `test_datasets`."""
