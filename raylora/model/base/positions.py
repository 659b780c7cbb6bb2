"""Positions of a base that learned a vector for each: how long a row and what is no text may be, where they begin.

Called where such a base is made, and where rows go in one after the other.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.task_class import OF_FILES
from raylora.spec.fields.task import TaskType
from raylora.spec.value_shape import value_shape


def check_positions(model: PreTrainedModel, sequence_len: int) -> None:
    """Refuse rows with more tokens than a base has positions.

    Args:
        model: The base; its parameters may be on the meta device.
        sequence_len: Tokens of the longest row, at least 1.

    Raises:
        ModelError: There are more.
    """
    for module in _learned(model):
        before = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
        if sequence_len > module.num_embeddings - before:
            raise ModelError(
                f"sequence_len: got {sequence_len}, and {type(model).__name__} has "
                f"{module.num_embeddings - before} positions. Lower sequence_len, or take another base"
            )


def uncounted_token(model: PreTrainedModel) -> int | None:
    """The token that has no position of its own and whose number the others' positions follow, as RoBERTa counts.

    Args:
        model: The base, placed or not.

    Returns:
        ``None`` where positions begin at 0.
    """
    return next((module.padding_idx for module in _learned(model) if module.padding_idx is not None), None)


def _learned(model: PreTrainedModel) -> list[nn.Embedding]:
    named = model.named_modules()
    return [each for name, each in named if name.endswith("position_embeddings") and isinstance(each, nn.Embedding)]


COUNTED = ("vit", "audio-spectrogram-transformer")
"""Types of models whose tokens `value_shape` counts."""


def check_value_tokens(model: PreTrainedModel, task: TaskType) -> None:
    """Refuse a base that makes other tokens of an image or a recording than `value_shape` counts.

    Args:
        model: The base; its parameters may be on the meta device.
        task: What it is for.

    Raises:
        ModelError: It does, or learned no position for each: who counts its tokens, and draws dropout for them, would
            count wrongly.
    """
    shape = value_shape(task, model.config)
    learned = [each for name, each in model.named_parameters() if name.endswith("position_embeddings")]
    is_known = model.config.model_type in COUNTED  # others of these shapes add tokens, such as DINOv2's registers
    if shape is None or not is_known or [each.shape[:-1] for each in learned] != [(1, shape.num_tokens)]:
        raise ModelError(
            f"base_model: {type(model).__name__} makes other tokens of a file than one for each patch and what it "
            f"classifies before them. Allowed: {OF_FILES[task]}. Choose such a base"
        )
