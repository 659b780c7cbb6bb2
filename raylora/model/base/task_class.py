"""The class of transformers that runs a base for a task.

A config and a task enter; a class leaves, or a `ModelError`. To add a task, add its line to `AUTO`, and here what it
asks of a base. Called by `meta` and by whoever checks a base.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from typing import Any, cast

from transformers import (
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
)

from raylora.errors import ModelError
from raylora.spec.fields.task import TaskType

AUTO: dict[TaskType, tuple[Any, Any]] = {
    "causal_lm": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    "seq_2_seq_lm": (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING),
    "seq_cls": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    "token_cls": (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING),
    "image_cls": (AutoModelForImageClassification, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING),
    "audio_cls": (AutoModelForAudioClassification, MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING),
}
"""What makes the model of each task, and its classes by config."""

OF_TEXTS = "a decoder (Llama, Qwen, Mistral, Gemma) or an encoder (BERT, RoBERTa)"
OF_FILES: dict[TaskType, str] = {
    "image_cls": "a vision transformer with a token for each patch and one before them (ViT)",
    "audio_cls": "an audio spectrogram transformer (AST)",
}
"""Bases of tasks whose rows are no texts."""

CAUSAL_NAMES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of the class names under which checkpoints that can continue a text are published."""

CAUSAL_FLAGS = ("is_decoder", "causal")
"""Config fields that make one class an encoder or a decoder: BERT and its kin, XLM."""

TWO_SIDES = ("t5", "mt5")
"""Types whose encoder and decoder are trained together: T5, T5 v1.1, Flan-T5 and mT5."""

ENCODERS_BY_ROWS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Types of encoders whose rows lie one after the other on a line: what looks at a line's first token, how they count
positions and where they drop values is known."""

SEES_BOTH_SIDES = ("cpmant", "xlnet")
"""Types that transformers lists as causal and whose tokens see those after them unless a special mask is given."""


def task_class(config: PretrainedConfig, task: TaskType) -> type[PreTrainedModel]:
    """Find the class of transformers that runs this config for a task.

    Args:
        config: A config from `read_config`.
        task: Which.

    Raises:
        ModelError: There is none, or it reads two texts at once; for `causal_lm` as `causal_lm_class`, for
            `seq_2_seq_lm` as `two_sided_class`.
    """
    if task == "causal_lm":
        return causal_lm_class(config)
    if task == "seq_2_seq_lm":
        return two_sided_class(config)
    auto, classes = AUTO[task]
    found = classes.get(type(config), None)
    if not isinstance(found, type) or config.is_encoder_decoder:
        has = f"has {'no' if found is None else 'more than one'} {auto.__name__}"
        why = "reads one text and writes another" if config.is_encoder_decoder else has
        raise ModelError(
            f"base_model: task_type: {task} cannot be learned by model_type {config.model_type!r}, which {why}. "
            f"Allowed: {OF_FILES.get(task, OF_TEXTS)}. Choose such a base."
        )
    return cast(type[PreTrainedModel], found)


def two_sided_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Find the class of transformers that reads a source and writes a target.

    Args:
        config: A config from `read_config`.

    Raises:
        ModelError: It is none of `TWO_SIDES`, or does not say with which token its decoder starts.
    """
    if config.model_type not in TWO_SIDES:
        raise ModelError(
            f"base_model: task_type: seq_2_seq_lm cannot be learned by model_type {config.model_type!r}. Allowed: "
            f"{', '.join(TWO_SIDES)} (T5, T5 v1.1, Flan-T5, mT5). Choose such a base, or another task_type."
        )
    if config.decoder_start_token_id is None:
        raise ModelError(
            "base_model: config.json has no decoder_start_token_id, so its decoder has no token to start with. Set the "
            "one that the model was trained with; T5's is 0."
        )
    return cast(type[PreTrainedModel], MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)])


def has_own_head(config: PretrainedConfig) -> bool:
    """Whether a model of `TWO_SIDES` was published with an output head that is not its embedding.

    Transformers says of all of them that they are tied, and unties those whose files have both.

    Args:
        config: Of the base. T5's says it by what scales the head's inputs; every mT5 has one.
    """
    return config.model_type in TWO_SIDES and not getattr(config, "scale_decoder_outputs", False)


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
        otherwise = ", or set task_type: seq_2_seq_lm" if config.model_type in TWO_SIDES else ""
        raise ModelError(_not_causal(config, "its architecture has no decoder-only language model", otherwise))
    if declared and not any(name.endswith(CAUSAL_NAMES) for name in declared):
        raise ModelError(_not_causal(config, f"it was published as {', '.join(declared)}"))
    found = cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    if config.model_type in SEES_BOTH_SIDES:
        raise ModelError(_not_causal(config, "each of its tokens sees those after it"))
    if (flag := _flag_down(config, found)) is not None:
        reason = f"config.json says (or leaves at) {flag}: false, so each token sees those after it"
        raise ModelError(_not_causal(config, reason, f", or set {flag}: true if it was trained that way"))
    return found


def sees_both_sides(config: PretrainedConfig) -> bool:
    """Whether a base's tokens see those after them, as an encoder's do.

    Args:
        config: Of the base.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.model_type in SEES_BOTH_SIDES:
        return True
    return _flag_down(config, cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])) is not None


def is_encoder_by_rows(config: PretrainedConfig) -> bool:
    """Whether a base is an encoder whose rows lie one after the other on a line.

    Args:
        config: Of the base.
    """
    return config.model_type in ENCODERS_BY_ROWS and sees_both_sides(config)


def draws_by_rows(config: PretrainedConfig) -> bool:
    """Whether what a base drops itself can be drawn for each row.

    Args:
        config: Of the base.
    """
    return config.model_type in TWO_SIDES or is_encoder_by_rows(config)


def _flag_down(config: PretrainedConfig, model_class: type[PreTrainedModel]) -> str | None:
    """The field that makes an encoder of a class that could be a decoder."""
    down = (flag for flag in CAUSAL_FLAGS if getattr(config, flag, None) is False)
    return next((flag for flag in down if _reads(model_class.__module__, flag)), None)


@cache  # parsing takes 20 ms, and a base is asked about a dozen times before its first step
def _reads(module: str, field: str) -> bool:
    """Whether a model's code looks at a config field: GPT-NeoX has ``is_decoder: false`` and pays no attention."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == field)
    return any(isinstance(node.ctx, ast.Load) and ast.unparse(node.value).endswith("config") for node in attributes)


def _not_causal(config: PretrainedConfig, reason: str, otherwise: str = "") -> str:
    return (
        f"base_model: model_type {config.model_type!r} is no causal language model: {reason}. "
        "Allowed: a decoder-only text model (AutoModelForCausalLM), such as Llama, Qwen, Mistral, Gemma or GPT-NeoX. "
        f"Choose such a base{otherwise}."
    )
