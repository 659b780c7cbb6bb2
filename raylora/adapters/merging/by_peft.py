"""An adapter in PEFT's own modules, merged into its base layer by layer, by PEFT's own code.

A stored adapter and its base enter, before anything is written; what each tensor of the base becomes, and what base and
adapter compute together, leave. Of the base's matrices the layer that is merged is in memory, or for the comparison of
logits a block. Called by the command `merge`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from raylora.adapters.merging.check import CPU, Wanted, float32_on_meta, logits_of
from raylora.adapters.merging.rounding import Holding
from raylora.adapters.peft_seat import seat_in
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.model.bank.peft_inject import base_of
from raylora.model.bank.peft_refusal import in_our_words
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.load import load_but_matrices, load_in_turn
from raylora.model.base.weights import Weights
from raylora.model.source.source import BaseFolder

Read = Callable[[str], Tensor]
"""Gives a parameter of a layer, by its name there."""


@dataclass(frozen=True)
class PeftChange:
    """What becomes of a tensor of the base, as of `Change`.

    Args:
        module: Dotted name of the layer.
        leaf: Name of the parameter in the layer.
        shape: Of the parameter.
        merge: Makes the layer's parameters of those of the base.
        read: Gives the layer's other parameters.
    """

    module: str
    leaf: str
    shape: tuple[int, ...]
    merge: Callable[[Read], dict[str, Tensor]]
    read: Read

    @property
    def tensor(self) -> str:
        """Name of the tensor in the model."""
        return f"{self.module}.{self.leaf}"

    def applied(self, weight_OI: Tensor) -> Tensor:
        """What PEFT makes of it, float32."""
        return self.merge(lambda leaf: weight_OI if leaf == self.leaf else self.read(leaf))[self.leaf]


class PeftMerge:
    """An adapter's modules beside its base, as of `Content`.

    Args:
        adapter: As it is stored.
        base: What it is merged into.

    Raises:
        ModelError: It does not fit the base, or PEFT cannot merge its type into it.
    """

    def __init__(self, adapter: StoredAdapter, base: BaseFolder) -> None:
        self._adapter, self._base = adapter, base
        self._model = float32_on_meta(base.path)
        self._weights = Weights(base.path, self._model)
        load_but_matrices(self._model, base.path, CPU)
        readable = BaseWeights(self._model, base.path, CPU, is_sharded=True)
        self._seat = seat_in(self._model, adapter, readable, CPU)
        self.layers = list(self._seat.layers)
        self.changes = {change.tensor: change for name in self.layers for change in self._changes(name)}
        self._try_merging()

    def wanted(self, rounding: Holding | None) -> Wanted:
        """As of `Content`; what belongs to a rounded base are matrices."""
        load_in_turn(self._model, self._base.path, CPU)
        with self._seat.in_place():
            return logits_of(self._model, self._base.path)

    def _changes(self, name: str) -> list[PeftChange]:
        merge, layer = partial(_merged, self._seat.layers[name]), self._model.get_submodule(name)
        read = partial(self._read, name)
        return [PeftChange(name, leaf, tuple(each.shape), merge, read) for leaf, each in layer.named_parameters()]

    def _read(self, module: str, leaf: str) -> Tensor:
        return self._weights.read(f"{module}.{leaf}")

    def _try_merging(self) -> None:
        """Merge a layer of each kind: whether it goes is up to a type's code, its fields and the layer."""
        tried: set[tuple[str, ...]] = set()
        for name, layer in self._seat.layers.items():
            leaves = [leaf for leaf, _ in self._model.get_submodule(name).named_parameters()]
            if (kind := (type(layer).__name__, *leaves)) in tried:
                continue
            tried.add(kind)
            with in_our_words(partial(self._unmergeable, name)):
                merged = _merged(layer, partial(self._read, name))
            if strange := merged.keys() ^ set(leaves):
                raise ModelError(self._unmergeable(name, f"the base has no place for {', '.join(sorted(strange))}"))

    def _unmergeable(self, name: str, why: str) -> str:
        return (
            f"adapter: {self._adapter.uri} is {self._adapter.config['peft_type']}, which PEFT cannot merge into "
            f"{name} of {self._base.name} ({why}). Nothing was written. Allowed: types that PEFT merges into such a "
            "layer. Use it beside its base: raylora generate, raylora chat, or PEFT's PeftModel"
        )


@torch.no_grad()
def _merged(layer: nn.Module, read: Read) -> dict[str, Tensor]:
    """What PEFT makes of a layer's parameters, by their names there; its own module is left as it was."""
    own: Any = copy.deepcopy(layer)
    for path, owner in base_of(own).named_modules():
        for leaf, parameter in list(owner.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = read(f"{path}.{leaf}" if path else leaf)
                setattr(owner, leaf, nn.Parameter(value.float().clone(), requires_grad=False))
    if hasattr(own, "unload_and_optionally_merge_module"):  # as PEFT's merge_and_unload goes
        merged = own.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    else:
        own.merge()
        merged = own.get_base_layer()
    return {name: parameter.detach() for name, parameter in merged.named_parameters()}
