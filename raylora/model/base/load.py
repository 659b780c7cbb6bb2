"""Load a base block by block: read, quantize, hand over, next.

A folder of safetensors enters; a model leaves, frozen and quantized, or plain and to be trained. Each block goes to
``place`` as soon as it is packed, so that a sharding strategy drops what other ranks hold before the next block is
read: a rank never holds more than its share, one block, and one weight before packing. Called by ``train.build``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.file_names import file_name
from raylora.model.base.frozen_linear import FrozenLinear, QuantLinear
from raylora.model.base.meta import meta_model
from raylora.model.base.positions import check_positions, check_value_tokens
from raylora.model.base.quant import QuantFormat
from raylora.model.base.weights import Weights, check_weights
from raylora.spec.fields.base import BaseFields
from raylora.spec.run import RunSpec


class Parts:
    """Seconds of what a load does in turns. On a GPU a part ends when its work is queued."""

    def __init__(self) -> None:
        self.seconds = {"load": 0.0, "quantize": 0.0, "place": 0.0}

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what is done within as `part`."""
        start = perf_counter()
        yield
        self.seconds[part] += perf_counter() - start


def quant_format(spec: BaseFields, dtype: torch.dtype) -> QuantFormat | None:
    """How the spec asks for linear layers to be held; ``None`` where they stay plain.

    Args:
        spec: The run, or what it says of its base.
        dtype: Compute dtype, also the storage dtype under ``bnb_4bit_quant_storage: auto``.
    """
    if spec.quantization == "none":
        return None
    storage = dtype if spec.bnb_4bit_quant_storage == "auto" else getattr(torch, spec.bnb_4bit_quant_storage)
    return QuantFormat(spec.quantization, spec.bnb_4bit_use_double_quant, storage)


def blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The repeated blocks (decoder layers) of a model by dotted name, the units of sharding."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return {name: module for name, module in model.named_modules() if type(module).__name__ in names}


def freeze_linears(model: PreTrainedModel, form: QuantFormat | None) -> None:
    """Replace every linear layer but the output head by a frozen one; parameters may be on meta.

    Args:
        model: Changed in place.
        form: How weights are packed; ``None`` leaves them plain.
    """
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, FrozenLinear(child) if form is None else QuantLinear(child, form))


def base_on_meta(config: PretrainedConfig, spec: RunSpec, dtype: torch.dtype) -> PreTrainedModel:
    """The base as the spec holds it, without weights: what is counted, matched and then filled; frozen unless trained.

    Args:
        config: Of the base.
        spec: The run: quantization, gradient checkpointing, the task and whether the base trains count.
        dtype: Compute dtype, of weights that train too.

    Raises:
        ModelError: It is no model for the task, or cannot do the gradient checkpointing that was asked for.
    """
    model = meta_model(config, dtype, spec)
    if spec.reads_values:
        check_value_tokens(model, spec.task_type)
    elif spec.has_head:
        check_positions(model, spec.sequence_len)
    if spec.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ModelError(
            f"gradient_checkpointing: true: {type(model).__name__} cannot do it. Allowed for this base: false. "
            "Set gradient_checkpointing: false, and a smaller micro_batch_size or sequence_len if memory is short"
        )
    if not spec.trains_base:
        freeze_linears(model, quant_format(spec, dtype))
        model.requires_grad_(False)
    return model


def load_base(
    model: PreTrainedModel, folder: Path, device: torch.device, place: Callable[[nn.Module], None]
) -> dict[str, float]:
    """Fill a meta model with a folder's weights, block by block.

    Args:
        model: From :func:`base_on_meta`; filled in place.
        folder: A local folder with safetensors whose names are the model's.
        device: Where weights are packed and first held.
        place: Called with each block when it is filled, and last with the model itself.

    Returns:
        Seconds by part: ``load`` (read, move, convert), ``quantize`` and ``place``.

    Raises:
        ModelError: As `weights.check_weights`.
    """
    parts = Parts()
    with parts.of("load"):
        weights = Weights(folder, model)
        check_weights(model, weights, folder)
    for name, block in blocks(model).items():
        _fill(block, f"{name}.", weights, device, parts)
        with parts.of("place"):
            place(block)
            _return_freed_memory()
    _fill(model, "", weights, device, parts)
    with parts.of("place"):
        model.tie_weights()
        move_buffers(model, device)
        place(model)
    return parts.seconds


def load_but_matrices(model: PreTrainedModel, folder: Path, device: torch.device) -> None:
    """Fill a meta model but for its linear layers and embeddings, which are nearly all of it.

    Args:
        model: From :func:`base_on_meta`; changed in place.
        folder: A local folder with safetensors whose names are the model's.
        device: Where weights are held.

    Raises:
        ModelError: As `weights.check_weights`.
    """
    weights = Weights(folder, model)
    check_weights(model, weights, folder)
    large = [f"{name}." for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    _fill(model, "", weights, device, Parts(), tuple(large))


def load_in_turn(
    model: PreTrainedModel, folder: Path, device: torch.device, adjust: Callable[[nn.Module], None] = lambda part: None
) -> None:
    """Fill a meta model but for its blocks; each of these is filled whenever it runs, and is empty again after.

    One block is held at a time, and each forward pass reads the folder once.

    Args:
        model: From :func:`base_on_meta`, with whatever is hooked onto its layers; changed in place.
        folder: A local folder with safetensors whose names are the model's.
        device: Where weights are held.
        adjust: Given each block when it is filled, and first the model without them.

    Raises:
        ModelError: As `weights.check_weights`.
    """
    weights, parts = Weights(folder, model), Parts()
    check_weights(model, weights, folder)
    of_blocks = blocks(model)
    for name, block in of_blocks.items():
        turn = _Turn(f"{name}.", weights, device, adjust)
        block.register_forward_pre_hook(turn.fill)
        block.register_forward_hook(turn.empty)
    _fill(model, "", weights, device, parts, tuple(f"{name}." for name in of_blocks))
    model.tie_weights()
    move_buffers(model, device)
    adjust(model)


def move_buffers(model: nn.Module, device: torch.device) -> None:
    """Bring a model's buffers where its weights are: they had their values on the CPU before there were any weights.

    Left there, each pass would wait for a copy of the frequencies of positions, and BERT's positions would meet an
    embedding on another device.

    Args:
        model: Changed in place.
        device: Of its weights.
    """
    for module in model.modules():
        for leaf, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, leaf, buffer.to(device))


class _Turn:
    """Fills a block before it runs, and takes its weights away after.

    Args:
        prefix: Before the names of its weights in the files.
        weights: Of the model.
        device: Where they are held.
        adjust: Given the block when it is filled.
    """

    def __init__(
        self, prefix: str, weights: Weights, device: torch.device, adjust: Callable[[nn.Module], None]
    ) -> None:
        self._prefix, self._weights, self._device, self._adjust = prefix, weights, device, adjust
        self._empty: list[tuple[nn.Module, str, nn.Parameter]] = []

    def fill(self, block: nn.Module, args: object) -> None:
        self._empty = [(owner, leaf, parameter) for _, owner, leaf, parameter in _on_meta(block)]
        _fill(block, self._prefix, self._weights, self._device, Parts())
        self._adjust(block)

    def empty(self, block: nn.Module, args: object, output: object) -> None:
        for owner, leaf, parameter in self._empty:
            setattr(owner, leaf, parameter)


def _return_freed_memory() -> None:
    """Hand freed pages back to the system.

    The allocator of the C library keeps them as holes between the rows that stay, and over all blocks the holes would
    come to more than the rows.
    """
    with suppress(OSError, AttributeError):  # another C library than glibc has no such call, and other habits
        ctypes.CDLL(None).malloc_trim(0)


def _on_meta(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    for path, owner in module.named_modules():
        for leaf, parameter in list(owner.named_parameters(recurse=False)):
            if parameter.is_meta:
                yield f"{path}.{leaf}" if path else leaf, owner, leaf, parameter


def _fill(
    module: nn.Module, prefix: str, weights: Weights, device: torch.device, parts: Parts, but: tuple[str, ...] = ()
) -> None:
    """Fill what is on the meta device, but for what has a name that starts with one of `but`."""
    for name, owner, leaf, parameter in _on_meta(module):
        in_file = file_name(prefix + name)
        if name.startswith(but) or in_file not in weights:  # the head, tied to the embedding: tie_weights fills it
            continue
        packer = owner if isinstance(owner, QuantLinear) and leaf == "packed" else None
        with parts.of("load"):
            tensor = weights.read(in_file).to(device)
            value = tensor.to(parameter.dtype if packer is None else packer.compute_dtype)
        if packer is not None:
            with parts.of("quantize"):
                value = packer.format.pack(value)
        setattr(owner, leaf, nn.Parameter(value, requires_grad=parameter.requires_grad))
