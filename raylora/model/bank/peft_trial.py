"""An adapter of PEFT's own put on a base without weights, before anything starts: does it go, where, how large is it.

A base on the meta device and a ``peft:`` block enter; counts, or a refusal, leave. Called by the driver's preflight,
the sweep's planner and `inspect`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.adapter.rank_limit import rank_too_large
from raylora.model.bank.peft_config import peft_config
from raylora.model.bank.peft_inject import ADAPTER, Injected, eject, inject
from raylora.model.bank.peft_refusal import in_our_words
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.frozen_linear import QuantLinear

LOWERED = ("DEFT", "TINYLORA")
"""Types whose `r`, one for all layers, PEFT lowers to what a layer has, and says nothing."""

RANKS = {
    **dict.fromkeys(("DELORA", "HIRA", "LOHA", "LORA", "UNILORA", "VBLORA", *LOWERED), ("r",)),
    "GRALORA": ("r", "hybrid_r"),
}
"""Ranks of factors R x I and O x R that PEFT takes however large; others it bounds, or means otherwise."""


@dataclass(frozen=True)
class PeftTrial:
    """What an adapter would be.

    Args:
        by_layer: Values that train, by the layer that PEFT wraps; what layers share is with the first.
    """

    by_layer: dict[str, int]

    @property
    def layers(self) -> list[str]:
        """Dotted names of the layers that PEFT wraps."""
        return list(self.by_layer)

    @property
    def num_values(self) -> int:
        """Values that train."""
        return sum(self.by_layer.values())


def peft_trial(model: PreTrainedModel, block: Mapping[str, Any]) -> PeftTrial:
    """Put an adapter on a base and take it off again.

    Args:
        model: From `base_on_meta`, without an adapter; left as it is.
        block: `peft_type` and fields of that type's config class.

    Raises:
        ModelError: PEFT does not take the block, cannot put such an adapter on this base, or would change the base; or
            a rank is above the smaller side of its layer.
    """
    config = peft_config(block)
    with in_our_words(partial(_refused, model, block["peft_type"])), torch.random.fork_rng(devices=[]):
        injected = inject(model, config, BaseWeights(model), torch.device("meta"))
    by_layer = _by_layer(injected)
    eject(model)
    for field in RANKS.get(block["peft_type"], ()):
        asked = getattr(config, field) if block["peft_type"] in LOWERED else None
        if (problem := _rank_too_large(injected, field, asked)) is not None:
            raise ModelError(f"peft: {problem}")
    return PeftTrial(by_layer)


def _rank_too_large(injected: Injected, field: str, asked: int | None) -> str | None:
    """Of all layers, whose ranks `rank_pattern` may tell apart, unless one was asked for of all of them."""
    shapes, ranks = {}, {}
    for name, layer in injected.layers.items():
        shape = _matrix(layer.get_base_layer()) if isinstance(layer, BaseTunerLayer) else None
        if shape is not None:  # of a convolution, or of experts in one tensor, there is no such limit
            tuner: Any = layer  # the class that they share does not promise `r`
            shapes[name], ranks[name] = shape, getattr(tuner, field)[ADAPTER] if asked is None else asked
    return rank_too_large(field, ranks, shapes)


def _matrix(layer: nn.Module) -> tuple[int, int] | None:
    """Sides of a layer that is a matrix; a packed one knows them by itself."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    weight = getattr(layer, "weight", None)
    return (weight.shape[0], weight.shape[1]) if isinstance(weight, Tensor) and weight.ndim == 2 else None


def _by_layer(injected: Injected) -> dict[str, int]:
    by_layer = dict.fromkeys(injected.layers, 0)
    for name, parameter in injected.trained.items():
        owner = next((layer for layer in injected.layers if name.startswith(f"{layer}.")), "")
        by_layer[owner] = by_layer.get(owner, 0) + parameter.numel()
    return by_layer


def _refused(model: PreTrainedModel, kind: str, why: str) -> str:
    is_quantized = any(isinstance(module, QuantLinear) for module in model.modules())
    instead = "set load_in_4bit and load_in_8bit to false, or change" if is_quantized else "change"
    return (
        f"peft: PEFT cannot put {kind} with these fields on {type(model).__name__} ({why}). "
        f"Allowed: what PEFT can make of the base's shapes alone; {instead} the fields, or take another peft_type"
    )
