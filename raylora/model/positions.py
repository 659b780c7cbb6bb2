"""How long a row may be in a base that learned a vector for each position, and how long what is no text is.

Called where such a base is made.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.task_class import OF_FILES
from raylora.spec.task import TaskType
from raylora.spec.value_shape import value_shape


def check_positions(model: PreTrainedModel, sequence_len: int) -> None:
    """Refuse rows with more tokens than a base has positions.

    Args:
        model: The base; its parameters may be on the meta device.
        sequence_len: Tokens of the longest row, at least 1.

    Raises:
        ModelError: There are more.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            before = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            if sequence_len > module.num_embeddings - before:
                raise ModelError(
                    f"sequence_len: got {sequence_len}, and {type(model).__name__} has "
                    f"{module.num_embeddings - before} positions. Lower sequence_len, or take another base"
                )


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
