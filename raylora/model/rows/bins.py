"""Whether rows on one line stay apart in a base: what its class and config say about each layer.

A base and the longest bin or row enter; a refusal or a reason leaves. There are two ways, and both need positions that
start again with each row: a mask over pairs of tokens, which takes the place of a layer's own window, and attention
row by row. Layers that carry a state along the line look at neither, and an encoder has each text on a line of its own.
Called by the preflight, `check_bins`, by the builder of a run for those that a pack admits later, `why_not_binned`, and
by `row_attention` and those who choose the way, `why_not_by_rows`.
"""

from __future__ import annotations

import inspect
import sys

from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.task_class import is_encoder_by_rows, sees_both_sides
from raylora.spec.fields.run import RunFields

# Kinds of layers that obey a mask over pairs of tokens, and the config field of their window.
_WINDOW_FIELDS = {
    "full_attention": None,
    "sliding_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
}


def joins_texts(model: PreTrainedModel, spec: RunFields) -> bool:
    """Whether lines of a run's batches have several texts: those of bins, and of pairs but on an encoder.

    Args:
        model: The base; its parameters may be on the meta device.
        spec: The run.
    """
    return spec.sample_packing or (spec.joins_texts and not sees_both_sides(model.config))


def check_bins(model: PreTrainedModel, sequence_len: int) -> None:
    """Refuse a base in which tokens of a bin would see, or lose sight of, other tokens than in their row alone.

    Args:
        model: The base; its parameters may be on the meta device.
        sequence_len: Tokens of the longest bin, at least 1.

    Raises:
        ModelError: A layer carries a state, chooses what it sees, or has a window shorter than `sequence_len`; or the
            model takes no mask over pairs of tokens, or no positions, or is an encoder.
    """
    if (why := why_not_binned(model, sequence_len)) is not None:
        raise ModelError(why)


def why_not_binned(model: PreTrainedModel, sequence_len: int) -> str | None:
    """What `check_bins` would say of a base, or ``None`` where rows of a bin stay apart.

    Args:
        model: The base, not placed yet; its parameters may be on the meta device.
        sequence_len: Tokens of the longest bin, at least 1.
    """
    if sees_both_sides(model.config):
        # Lines as many as its texts and as long as the longest: of a full bin, up to a fourth of its length squared.
        return (
            f"sample_packing: {type(model).__name__} lets tokens see those after them, so each text has a line of its "
            "own, and a bin would be lines of any number, padded. Set sample_packing: false"
        )
    found = _no_attention(model) or _window(model, sequence_len) or _no_mask(model)
    if found is None:
        return None
    return (
        f"sample_packing: {type(model).__name__} {found}, so texts side by side, rows of a bin or a pair of rl, would "
        "not be trained as they are alone. Allowed: full attention in every layer, or windows of at least "
        f"sequence_len = {sequence_len} tokens. For rl take another base. Set sample_packing: false"
    )


def why_not_by_rows(model: PreTrainedModel, longest_row: int) -> str | None:
    """Why a base cannot take its rows one after the other by `attend_by_rows`, or ``None`` where it can.

    Args:
        model: The base; its parameters may be on the meta device.
        longest_row: Tokens of the longest row, at least 1.
    """
    if sees_both_sides(model.config) and not is_encoder_by_rows(model.config):
        return "lets tokens see those after them"
    return _no_attention(model) or _window(model, longest_row) or _no_row_lengths(model)


def shortest_window(model: PreTrainedModel) -> int | None:
    """Tokens of the narrowest window of a base's layers, ``None`` where all see a whole row."""
    return min((window for _, window in _windows(model)), default=None)


def _no_attention(model: PreTrainedModel) -> str | None:
    others = sorted(set(_layer_types(model)) - _WINDOW_FIELDS.keys())
    if others or getattr(model, "_is_stateful", False):
        return f"has layers that do not keep to a mask ({', '.join(others) or 'recurrent'})"
    return None


def _window(model: PreTrainedModel, sequence_len: int) -> str | None:
    for field, window in _windows(model):
        if window < sequence_len:
            return f"has {field}: {window}, below sequence_len: {sequence_len}"
    return None


def _windows(model: PreTrainedModel) -> list[tuple[str, int]]:
    config = model.config.get_text_config()
    kinds = _layer_types(model) or list(_WINDOW_FIELDS)  # without a list, a window holds for all layers
    fields = dict.fromkeys(field for field in map(_WINDOW_FIELDS.get, kinds) if field)
    return [(field, window) for field in fields if (window := getattr(config, field, None))]


def _no_positions(model: PreTrainedModel) -> str | None:
    takes = "position_ids" in inspect.signature(model.forward).parameters
    return None if takes else "takes no position_ids"


def _no_row_lengths(model: PreTrainedModel) -> str | None:
    if not model._supports_sdpa or not model._can_set_attn_implementation():
        return "has an attention of its own"
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        return "caps its attention's scores"
    is_encoder = is_encoder_by_rows(model.config)
    if not is_encoder and any(getattr(module, "is_causal", True) is False for module in model.modules()):
        return "lets tokens see those after them"
    kinds = {parameter.kind for parameter in inspect.signature(model.forward).parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        return "hands no keyword arguments on to its attention"
    return _no_positions(model)


def _no_mask(model: PreTrainedModel) -> str | None:
    if (reason := _no_positions(model)) is not None:
        return reason
    # transformers' own function hands a mask over pairs of tokens on as it is; models without it expect another.
    if not hasattr(sys.modules[type(model).__module__], "create_causal_mask"):
        return "takes no attention mask over pairs of tokens"
    return None


def _layer_types(model: PreTrainedModel) -> list[str]:
    return list(getattr(model.config.get_text_config(), "layer_types", None) or ())
