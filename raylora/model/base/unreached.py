"""Weights that neither quantization nor an adapter reaches: those of no linear layer, such as experts fused into one.

A model on the meta device enters; one line for the log leaves. Called by the builder of a run and by the estimate.
"""

from __future__ import annotations

import re
from collections import defaultdict

from transformers import PreTrainedModel

SMALL_SHARE = 0.01
"""Of the base's bytes: what is less is not worth a word (convolutions of a few values)."""


def unreached_weights(model: PreTrainedModel) -> dict[str, int]:
    """Bytes of the weights with three dimensions or more, by their dotted name with ``*`` for each index.

    Transformers holds all experts of a layer in one such weight; linear layers and embeddings have two dimensions.

    Args:
        model: The base; its parameters may be on the meta device.
    """
    found: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 3:
            found[re.sub(r"(?<=\.)\d+(?=\.)", "*", name)] += parameter.numel() * parameter.element_size()
    return dict(found)


def warning_of_unreached(model: PreTrainedModel) -> str | None:
    """What the user should know about such weights; ``None`` where there are none to speak of.

    Args:
        model: From ``base_on_meta``, with or without adapters.
    """
    found = unreached_weights(model)
    unreached_bytes = sum(found.values())
    all_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if unreached_bytes <= SMALL_SHARE * all_bytes:
        return None
    return (
        f"base_model: {', '.join(found)} are no linear layers (convolutions, positions, or experts fused into one): "
        f"{unreached_bytes / 1e9:.3g} GB, {unreached_bytes / all_bytes:.0%} of the base, get no adapter and stay "
        "unquantized whatever load_in_4bit, load_in_8bit and lora_target_modules say"
    )
