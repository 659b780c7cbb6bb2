"""config.json -> the model's module tree without weights.

Enters a folder with config.json (or its config); leaves a causal language model whose parameters are on the meta
device (shape and dtype, no bytes) and whose buffers are real. 175B parameters take about a second and no memory.
Called by the loader, the target matcher, `inspect` and the estimate.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import sys
from pathlib import Path
from typing import cast

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from raylora.errors import ModelError

CAUSAL_NAMES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of the class names under which checkpoints that can continue a text are published."""

CAUSAL_FLAGS = ("is_decoder", "causal")
"""Config fields that make one class an encoder or a decoder: BERT and its kin, XLM."""

SEES_BOTH_SIDES = ("cpmant", "xlnet")
"""Types that transformers lists as causal and whose tokens see those after them unless a special mask is given."""

NO_CONFIG = (
    "base_model: {} has no config.json. Allowed: a folder in the layout of the Hugging Face hub "
    "(config.json, *.safetensors, tokenizer files). Give the folder that save_pretrained wrote."
)


def read_config(folder: Path) -> PretrainedConfig:
    """Read the config of a base model, without running code that came with it.

    Args:
        folder: Local folder with config.json.

    Raises:
        ModelError: No config.json, not JSON, an unknown architecture, or one that needs its own Python code.
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
    if remote_code and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(_remote_code(folder, config.model_type, fields["auto_map"]))
    return config


def causal_lm_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Find the class of transformers that runs this config as a causal language model.

    Args:
        config: A config from `read_config`.

    Raises:
        ModelError: An encoder, an encoder-decoder, an architecture without a causal language model, or one that lets
            tokens see those after them: its loss would be low and mean nothing.
    """
    declared = list(config.architectures or ())
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise ModelError(_not_causal(config, "its architecture has no decoder-only language model"))
    if declared and not any(name.endswith(CAUSAL_NAMES) for name in declared):
        raise ModelError(_not_causal(config, f"it was published as {', '.join(declared)}"))
    found = cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    if config.model_type in SEES_BOTH_SIDES:
        raise ModelError(_not_causal(config, "each of its tokens sees those after it"))
    for flag in CAUSAL_FLAGS:
        if getattr(config, flag, None) is False and _reads(found, flag):
            reason = f"config.json says (or leaves at) {flag}: false, so each token sees those after it"
            raise ModelError(_not_causal(config, reason, f", or set {flag}: true if it was trained that way"))
    return found


def meta_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Build the module tree with parameters on the meta device, real buffers and tied weights tied.

    Args:
        config: A config from `read_config`; left as it is.
        dtype: Dtype of the parameters.

    Raises:
        ModelError: As `causal_lm_class`.
    """
    model_class = causal_lm_class(config)
    attention = "sdpa" if model_class._supports_sdpa else "eager"
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    # Moving a parameter to the meta device made a new one, so what was tied in the constructor came apart.
    model.tie_weights()
    return model


def _reads(model_class: type[PreTrainedModel], field: str) -> bool:
    """Whether a model's code looks at a config field: GPT-NeoX has ``is_decoder: false`` and pays no attention."""
    tree = ast.parse(inspect.getsource(sys.modules[model_class.__module__]))
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == field)
    return any(isinstance(node.ctx, ast.Load) and ast.unparse(node.value).endswith("config") for node in attributes)


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


def _not_causal(config: PretrainedConfig, reason: str, otherwise: str = "") -> str:
    return (
        f"base_model: model_type {config.model_type!r} is no causal language model: {reason}. "
        "Allowed: a decoder-only text model (AutoModelForCausalLM), such as Llama, Qwen, Mistral, Gemma or GPT-NeoX. "
        f"Choose such a base{otherwise}."
    )
