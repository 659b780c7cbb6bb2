"""Whether the rows of a bin stay apart in a base: what its class and config say about each layer.

A base and the longest bin enter; a refusal leaves. Bins are kept apart by a mask over pairs of tokens and by positions
that start again with each row. Layers that carry a state along the line look at neither, and such a mask takes the
place of a layer's own window. Called by the preflight.
"""

from __future__ import annotations

import inspect
import sys

from transformers import PreTrainedModel

from raylora.errors import ModelError

# Kinds of layers that obey a mask over pairs of tokens, and the config field of their window.
_WINDOW_FIELDS = {
    "full_attention": None,
    "sliding_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
}


def check_bins(model: PreTrainedModel, sequence_len: int) -> None:
    """Refuse a base in which tokens of a bin would see, or lose sight of, other tokens than in their row alone.

    Args:
        model: The base; its parameters may be on the meta device.
        sequence_len: Tokens of the longest bin, at least 1.

    Raises:
        ModelError: A layer carries a state, chooses what it sees, or has a window shorter than `sequence_len`; or the
            model takes no mask over pairs of tokens, or no positions.
    """
    found = _no_attention(model) or _window(model, sequence_len) or _no_mask(model)
    if found:
        raise ModelError(
            f"sample_packing: {type(model).__name__} {found}, so rows of a bin would not be trained as they are alone. "
            f"Allowed: full attention in every layer, or windows of at least sequence_len = {sequence_len} tokens. "
            "Set sample_packing: false"
        )


def _no_attention(model: PreTrainedModel) -> str | None:
    others = sorted(set(_layer_types(model)) - _WINDOW_FIELDS.keys())
    if others or getattr(model, "_is_stateful", False):
        return f"has layers that do not keep to a mask ({', '.join(others) or 'recurrent'})"
    return None


def _window(model: PreTrainedModel, sequence_len: int) -> str | None:
    config = model.config.get_text_config()
    kinds = _layer_types(model) or list(_WINDOW_FIELDS)  # without a list, a window holds for all layers
    for field in filter(None, map(_WINDOW_FIELDS.get, kinds)):
        window = getattr(config, field, None)
        if window and window < sequence_len:
            return f"has {field}: {window}, below sequence_len: {sequence_len}"
    return None


def _no_mask(model: PreTrainedModel) -> str | None:
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "takes no position_ids"
    # transformers' own function hands a mask over pairs of tokens on as it is; models without it expect another.
    if not hasattr(sys.modules[type(model).__module__], "create_causal_mask"):
        return "takes no attention mask over pairs of tokens"
    return None


def _layer_types(model: PreTrainedModel) -> list[str]:
    return list(getattr(model.config.get_text_config(), "layer_types", None) or ())
