"""config.json -> the model's module tree without weights.

Enters a folder with config.json (or its config) and a task; leaves a model whose parameters are on the meta device
(shape and dtype, no bytes) and whose buffers are real. 175B parameters take about a second and no memory. Called by the
loader, the target matcher, `inspect` and the estimate.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.head_seat import take_head
from raylora.model.base.task_class import AUTO, has_own_head, task_class
from raylora.spec.fields.task import TaskFields

NO_CONFIG = (
    "base_model: {} has no config.json. Allowed: a folder in the layout of the Hugging Face hub "
    "(config.json, *.safetensors, tokenizer files). Give the folder that save_pretrained wrote."
)


def read_config(folder: Path) -> PretrainedConfig:
    """Read the config of a base model, without running code that came with it.

    Args:
        folder: Local folder with config.json.

    Raises:
        ModelError: No config.json, not JSON, an unknown architecture, or one that needs its own Python code, since
            transformers has no class that runs it for any task.
    """
    fields = _read_json(folder)
    remote_code = "auto_map" in fields
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, OSError, StrictDataclassError) as error:
        kind = fields.get("model_type")
        if remote_code:
            raise ModelError(_remote_code(folder, kind, fields["auto_map"])) from error
        raise ModelError(
            f"base_model: {folder}/config.json has model_type {kind!r}, which transformers cannot read "
            f"({_first_line(error)}). "
            "Allowed: an architecture that transformers contains. Correct config.json or upgrade transformers."
        ) from error
    if remote_code and not any(type(config) in classes for _, classes in AUTO.values()):
        raise ModelError(_remote_code(folder, config.model_type, fields["auto_map"]))
    return config


def meta_model(config: PretrainedConfig, dtype: torch.dtype, task: TaskFields | None = None) -> PreTrainedModel:
    """Build the module tree with parameters on the meta device, real buffers and tied weights tied.

    Args:
        config: A config from `read_config`; left as it is.
        dtype: Dtype of the parameters.
        task: What the model is for, a causal language model where absent; a head that is to be trained is taken out.

    Raises:
        ModelError: As `task_class`.
    """
    task = task or TaskFields()
    model_class, config = task_class(config, task.task_type), copy.deepcopy(config)
    if task.has_head:
        config.num_labels = task.num_labels
    attention = "sdpa" if model_class._supports_sdpa else "eager"
    auto, _ = AUTO[task.task_type]
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = auto.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    if task.has_head:
        take_head(model, task)
    if has_own_head(config):
        _untie_head(model)
    # Moving a parameter to the meta device made a new one, so what was tied in the constructor came apart.
    model.tie_weights()
    return model


def _untie_head(model: PreTrainedModel) -> None:
    """Leave the output head out of what `tie_weights` ties, now and when the base is loaded."""
    tied: dict[str, str] = model._tied_weights_keys
    head = model.get_output_embeddings()
    model._tied_weights_keys = {
        name: source for name, source in tied.items() if model.get_submodule(name.rpartition(".")[0]) is not head
    }


def _read_json(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(NO_CONFIG.format(folder))
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"base_model: {path} is not JSON ({error}). Copy the model's folder again.") from error
    if not isinstance(fields, dict):
        raise ModelError(f"base_model: {path} holds {type(fields).__name__}, not an object. Copy the folder again.")
    return fields


def _remote_code(folder: Path, kind: object, auto_map: object) -> str:
    return (
        f"base_model: {folder} (model_type {kind!r}) needs Python code that comes with it (auto_map: {auto_map}). "
        "Allowed: an architecture that transformers contains, since code from a model's folder is never run. "
        "Use a version of the model converted to transformers' own class."
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
