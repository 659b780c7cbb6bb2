"""PEFT's modules put into a base, and taken out again: any type that adapts layers, as its own code makes it.

A base and a config of PEFT's enter; the base changed in place leaves, with its adapter's tensors sorted out. The base
may be on the meta device, or filled and placed: PEFT reads shapes, devices and, for some types, weights off it. Called
by PEFT's bank and by the driver's trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.adapter.peft_format import PREFIX
from raylora.model.bank.peft_patterns import refuse_slow_patterns
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.frozen_linear import FrozenLinear

ADAPTER = "default"

OF_PEFT = (BaseTunerLayer, AuxiliaryTrainingWrapper)
"""What PEFT puts in the place of a module."""


@dataclass(frozen=True)
class Injected:
    """One adapter in a base.

    Args:
        holder: What PEFT's functions take for a PeftModel: names of tensors in it are those of PEFT's files, but for
            the adapter's name in them.
        layers: PEFT's modules by the dotted names of the base's that they wrap.
        trained: What trains, by dotted name; a tensor that layers share has the name of the first.
        beside: What the adapter holds and does not train, by dotted name.
    """

    holder: Any
    layers: dict[str, Any]
    trained: dict[str, nn.Parameter]
    beside: dict[str, Tensor]

    @property
    def state(self) -> dict[str, Tensor]:
        """The adapter's lasting tensors by the names of the holder, as its ``state_dict`` has them."""
        own = {id(tensor) for tensor in (*self.trained.values(), *self.beside.values())}
        return {name: tensor.detach() for name, tensor in _named(self.holder, twice=True) if id(tensor) in own}

    def switch(self, on: bool) -> None:
        """Let passes go through the adapter, or past it."""
        for layer in self.layers.values():
            layer.enable_adapters(on)
        for parameter in self.trained.values():
            parameter.requires_grad_(True)
        for tensor in self.beside.values():
            tensor.requires_grad_(False)

    def train(self, training: bool) -> None:
        """Switch dropout on or off, in what wraps the base's modules and not in them."""
        for layer in self.layers.values():
            layer.training = training
            for name, child in layer.named_children():
                if name not in ("base_layer", "original_module"):
                    child.train(training)


def inject(model: PreTrainedModel, config: PeftConfig, weights: BaseWeights, device: torch.device) -> Injected:
    """Put an adapter into a base that has none; what is random in it is drawn from torch's generator.

    Args:
        model: The base, frozen; left as it was where the adapter cannot be put in.
        config: Of the adapter; PEFT fills in what it leaves open.
        weights: Reads the base's weights for types that start from them.
        device: Where the adapter lives.

    Raises:
        ModelError: The adapter would change the base, or train what is not the adapter's; or a pattern of its config
            could take for ever.
        Exception: PEFT cannot make it; each type says so in its own way.
    """
    refuse_slow_patterns(config, (name for name, _ in model.named_modules()))
    try:
        return _inject(model, config, weights.readable, device)
    except (NotImplementedError, RuntimeError):  # without weights: some types look at values, if only to count them
        if device.type != "meta":
            raise
        return _inject(model, config, weights.made_up, device)


def _inject(
    model: PreTrainedModel,
    config: PeftConfig,
    readable: Callable[[], AbstractContextManager[None]],
    device: torch.device,
) -> Injected:
    base, kind = _Base(model), PeftType(config.peft_type)
    with ExitStack() as undo:
        undo.callback(eject, model)
        with readable():
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[kind](model, {ADAPTER: config}, ADAPTER)
            tuner._cast_adapter_dtype(adapter_name=ADAPTER, autocast_adapter_dtype=True)
        base.refuse_changes(kind.value)
        holder: Any = nn.Module()
        holder.base_model = tuner
        vars(holder)["peft_config"] = tuner.peft_config
        _settle(holder, base, device)
        injected = _sorted_out(holder, base)
        if not injected.trained:
            raise ModelError(f"peft: {kind.value} with these fields trains nothing; change them")
        undo.pop_all()
    return injected


def eject(model: nn.Module) -> None:
    """Take an adapter out of a base, if it has one."""
    _unwrap(model)
    model.requires_grad_(False)
    vars(model).pop("peft_config", None)


def base_of(layer: Any) -> nn.Module:
    """The base's own module in one of PEFT's.

    Args:
        layer: Of PEFT's; others are their own.
    """
    while isinstance(layer, OF_PEFT):
        layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer.original_module
    return cast(nn.Module, layer)


def _unwrap(parent: nn.Module) -> None:
    """Put the base's own modules back; PEFT's stay whole."""
    for name, child in list(parent.named_children()):
        if isinstance(child, OF_PEFT):
            setattr(parent, name, base_of(child))
        else:
            _unwrap(child)


class _Base:
    """What a base was before an adapter was put into it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._head = model, model.get_output_embeddings()
        self._linears = [module for module in model.modules() if isinstance(module, FrozenLinear)]
        self._tensors = [tensor for _, tensor in _named(model)]
        self._marks = [_mark(tensor) for tensor in self._tensors]
        self._ids = {id(tensor) for tensor in self._tensors}

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._ids

    def refuse_changes(self, kind: str) -> None:
        """Refuse an adapter that is not beside the base but in its place.

        Raises:
            ModelError: Weights were written to, layers added, copied or trained, or the output head was wrapped.
        """
        after = [module for module in self._model.modules() if isinstance(module, FrozenLinear)]
        if {id(module) for module in after} != {id(module) for module in self._linears}:
            raise _refused(kind, "copies layers of the frozen base (modules_to_save)")
        if self._model.get_output_embeddings() is not self._head:
            raise _refused(kind, "adapts the output head, whose losses are computed in pieces")
        if any(tensor.requires_grad for tensor in self._tensors):
            raise _refused(kind, "trains biases of the frozen base (bias)")
        present = {id(tensor) for _, tensor in _named(self._model)}
        changed = [_mark(tensor) != mark for tensor, mark in zip(self._tensors, self._marks, strict=True)]
        if any(changed) or not self._ids <= present:
            raise _refused(kind, "changes weights of the frozen base, which stays as it is for all adapters")


def _refused(kind: str, what: str) -> ModelError:
    return ModelError(f"peft: {kind} with these fields {what}. Leave out what asks for it, or take another peft_type")


def _mark(tensor: Tensor) -> tuple[int, int]:
    """Another one where a tensor was given other data, or written to."""
    return getattr(tensor, "_local_tensor", tensor).untyped_storage()._cdata, tensor._version


def _named(module: nn.Module, twice: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by dotted name.

    Args:
        module: Whose.
        twice: Also under further names, where several modules hold them; without what no file keeps.
    """
    for path, owner in module.named_modules(remove_duplicate=not twice):
        for leaf, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None and not (twice and leaf in owner._non_persistent_buffers_set):
                yield f"{path}.{leaf}" if path else leaf, tensor


def _settle(holder: nn.Module, base: _Base, device: torch.device) -> None:
    """Bring the adapter to its device, whole, and what trains to float32."""
    settled: dict[int, tuple[Tensor, Tensor]] = {}
    for owner in holder.modules():
        for tensors in cast(list[dict[str, Tensor | None]], [owner._parameters, owner._buffers]):
            for leaf, tensor in tensors.items():
                if tensor is not None and tensor not in base:
                    _, tensors[leaf] = settled.setdefault(id(tensor), (tensor, _settled(tensor, device)))


def _settled(tensor: Tensor, device: torch.device) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    dtype = torch.float32 if tensor.requires_grad else tensor.dtype
    if whole is tensor and tensor.device.type == device.type and tensor.dtype == dtype:
        return tensor
    moved = whole.detach().to(device, dtype)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved


def _sorted_out(holder: nn.Module, base: _Base) -> Injected:
    layers = {name: module for name, module in holder.named_modules() if isinstance(module, OF_PEFT)}
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in _named(holder):
        if tensor not in base and id(tensor) not in seen:
            seen.add(id(tensor))
            own[name.removeprefix(PREFIX)] = tensor
    return Injected(
        holder,
        {name.removeprefix(PREFIX): module for name, module in layers.items()},
        {name: cast(nn.Parameter, tensor) for name, tensor in own.items() if tensor.requires_grad},
        {name: tensor for name, tensor in own.items() if not tensor.requires_grad},
    )
