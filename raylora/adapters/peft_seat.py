"""A stored adapter in PEFT's own modules, which stand beside a base and take the places of its layers when asked to.

A `StoredAdapter` and a base enter; a seat leaves, and the base as it was. Called by `opening` and by merging, for
adapters that are more than two matrices a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn
from transformers import PreTrainedModel

from raylora.adapters.layers import why_other_task
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.model.bank.peft_config import why_not
from raylora.model.bank.peft_inject import ADAPTER, Injected, eject, inject
from raylora.model.bank.peft_refusal import in_our_words
from raylora.model.base.base_weights import BaseWeights


class PeftSeat:
    """An adapter's modules, out of the base until they are put in.

    Args:
        model: The base, with the modules in their places.
        injected: The modules.
    """

    def __init__(self, model: PreTrainedModel, injected: Injected) -> None:
        names = [name for name in injected.layers if not _is_within(name, injected.layers)]
        self._injected = injected  # holds what the layers share
        self._places = {name: model.get_submodule(name.rpartition(".")[0]) for name in names}
        self.layers: Mapping[str, nn.Module] = {name: injected.layers[name] for name in names}
        injected.train(False)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let passes of the base go through the adapter within."""
        before = {name: self._put(name, layer) for name, layer in self.layers.items()}
        try:
            yield
        finally:
            for name, layer in before.items():
                self._put(name, layer)

    def _put(self, name: str, layer: nn.Module) -> nn.Module:
        """Set a module into its place; returns the one that was there."""
        parent, leaf = self._places[name], name.rpartition(".")[2]
        before: nn.Module = getattr(parent, leaf)
        setattr(parent, leaf, layer)
        return before


def config_of(adapter: StoredAdapter) -> PeftConfig:
    """Make an adapter's config anew.

    Args:
        adapter: As it is stored.

    Raises:
        ModelError: It is for another task than the next token, of no type that raylora trains in PEFT's modules, or
            PEFT does not take its fields.
    """
    name = str(adapter.config.get("peft_type"))
    if (other := why_other_task(adapter.config)) is not None:
        raise ModelError(f"adapter: {adapter.uri} {other}")
    if name not in {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}:
        raise ModelError(
            f"adapter: {adapter.uri} has peft_type {name!r}, which this PEFT does not have. Allowed: types of "
            "docs/methods.md. Install the version of PEFT that saved it"
        )
    if (reason := why_not(name)) is not None:
        raise ModelError(
            f"adapter: {adapter.uri} is {name}: {reason}. Allowed: types that raylora trains. Load it with "
            "PEFT's PeftModel, and merge it with PEFT where its type can be"
        )
    refused = f"adapter: {adapter.uri} is {name}, and PEFT refuses its config"
    with in_our_words(lambda why: f"{refused} ({why}). Save it with PEFT again"):
        config: PeftConfig = PeftConfig.from_peft_type(**adapter.config)
    config.inference_mode = False  # or nothing would be told apart as what was trained
    return config


def seat_in(model: PreTrainedModel, adapter: StoredAdapter, weights: BaseWeights, device: torch.device) -> PeftSeat:
    """Make an adapter's modules for a base, with its values in them.

    Args:
        model: The base, frozen and without an adapter in its module tree; left as it is. On the meta device it is
            found out whether the adapter fits.
        adapter: As it is stored.
        weights: Reads the base's weights for types that need them.
        device: Where the adapter lives.

    Raises:
        ModelError: As `config_of`; or it does not fit the base, would change it, or lacks a tensor.
    """
    config, which = config_of(adapter), f"adapter: {adapter.uri} is {adapter.config['peft_type']}"
    cannot = f"{which}, and PEFT cannot put it on {type(model).__name__}"
    instead = "Name the base that it was trained on with --base, or load it with PEFT's PeftModel"
    try:
        with (
            in_our_words(lambda why: f"{cannot} ({why}). {instead}"),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            injected = inject(model, config, weights, device)
            problem = _fill(injected, adapter, device)
            seat = PeftSeat(model, injected)
    finally:
        eject(model)
    if problem is not None:
        raise ModelError(f"{which} and {problem}. Copy the folder again, or save it with PEFT again")
    return seat


def _fill(injected: Injected, adapter: StoredAdapter, device: torch.device) -> str | None:
    """Put an adapter's values into its modules; returns what is missing or has no place."""
    tensors = {name: tensor.to(device) for name, tensor in adapter.tensors.items()}
    # typed as a namedtuple without fields
    result: Any = set_peft_model_state_dict(injected.holder, tensors, adapter_name=ADAPTER)
    missing = set(result.missing_keys)
    named = injected.holder.named_parameters(remove_duplicate=False)
    filled = {id(parameter) for name, parameter in named if name not in missing}
    empty = [name for name, parameter in injected.trained.items() if id(parameter) not in filled]
    if empty:
        return f"lacks {len(empty)} of the {len(injected.trained)} tensors that its type trains, first {empty[0]}"
    if strange := result.unexpected_keys:
        return f"has {len(strange)} tensors that its type has no place for, first {strange[0]}"
    return None


def _is_within(name: str, layers: Mapping[str, Any]) -> bool:
    """Whether a module lies in another one of PEFT's, as where several tensors of one layer are adapted."""
    parts = name.split(".")
    return any(".".join(parts[:end]) in layers for end in range(1, len(parts)))
