"""How long a row may be in a base that learned a vector for each position. Called where such a base is made."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from raylora.errors import ModelError


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
