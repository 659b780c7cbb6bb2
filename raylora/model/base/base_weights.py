"""Weights of a base's frozen layers, each whole, on a rank that may hold a part of it.

The model and its folder enter; one layer's weight leaves, as the base holds it or as it was before quantization. Called
by what starts adapters. No other rank is asked: a rank may have to start an adapter that the others have nothing to do
with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from raylora.model.base.frozen_linear import FrozenLinear, QuantLinear, ToRead
from raylora.model.base.weights import Weights


class BaseWeights:
    """Reads weights of a loaded base; the files are opened by the first that takes one.

    Args:
        model: From `base_on_meta`, filled and placed or not.
        folder: What it is, or was, filled from; ``None`` where there is none, and layers hold all that is asked for.
        device: Where it was packed: another may round otherwise.
        is_sharded: Whether layers hold a part of their weight only.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path | None = None,
        device: torch.device | None = None,
        is_sharded: bool = False,
    ) -> None:
        self._model, self._folder, self._device, self._is_sharded = model, folder, device, is_sharded

    def held(self, name: str) -> Tensor:
        """A layer's weight as the base holds it, quantization included.

        Args:
            name: Dotted name of a frozen linear layer.

        Shapes:
            Returns (O, I), float32.
        """
        layer = cast(FrozenLinear, self._model.get_submodule(name))
        if not self._is_sharded:
            return layer.whole(layer.held.detach(), torch.float32).float()
        return self._held_of(name, layer)

    def published(self, name: str) -> Tensor | None:
        """A tensor of the files; ``None`` where there is none of that name, or no files.

        Args:
            name: As the model has it.
        """
        if self._folder is None or name not in self._files:
            return None
        return self.tensor(name)

    def original(self, name: str) -> Tensor:
        """A layer's weight as the files have it.

        Args:
            name: Dotted name of a frozen linear layer.

        Shapes:
            Returns (O, I), float32.
        """
        return self._read(name).float()

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Let `weight` of every linear layer and embedding be whole within, also where this rank holds a part of it.

        For code that is not ours and asks the layer itself.
        """
        with _read_by(self._model, self._held_of) if self._is_sharded else nullcontext():
            yield

    @contextmanager
    def made_up(self) -> Iterator[None]:
        """As `readable`, but of random values, for code that looks at values where there are none yet."""
        with _read_by(self._model, lambda name, layer: 0.02 * torch.randn(_shape(layer))):
            yield

    def tensor(self, name: str) -> Tensor:
        """A tensor as the files have it, in their dtype.

        Args:
            name: Of the tensor, by the files.
        """
        return self._files.read(name).to(self._device)

    def _held_of(self, name: str, layer: nn.Module) -> Tensor:
        weight_OI = self._read(name).to(_dtype(layer))
        if not isinstance(layer, QuantLinear):
            return weight_OI.float()
        return layer.format.unpack(layer.format.pack(weight_OI), layer.shape, torch.float32)

    def _read(self, name: str) -> Tensor:
        return self.tensor(f"{name}.weight")

    @cached_property
    def _files(self) -> Weights:
        assert self._folder is not None
        return Weights(self._folder, self._model)


@contextmanager
def _read_by(model: nn.Module, read: Callable[[str, nn.Module], Tensor]) -> Iterator[None]:
    """Ask a reader for `weight` of a model's linear layers and embeddings.

    The last one read is kept: who asks for a weight's shape and device reads it too.
    """
    last = lru_cache(maxsize=1)(read)
    kinds: list[tuple[nn.Module, type[nn.Module]]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, FrozenLinear | nn.Embedding):
            kinds.append((layer, type(layer)))
            vars(layer)["read"] = partial(last, name, layer)
            layer.__class__ = type("ReadLinear", (_Read, type(layer)), {})
    try:
        yield
    finally:
        for layer, kind in kinds:
            layer.__class__ = kind
            del vars(layer)["read"]


class _Read:
    """Mixed into a layer that does not hold what its `weight` shall be."""

    read: Callable[[], Tensor]

    @property
    def weight(self) -> nn.Parameter:
        """What is read."""
        return ToRead(self.read().to(_dtype(cast(nn.Module, self))), requires_grad=False)


def _dtype(layer: nn.Module) -> torch.dtype:
    """That of a layer's weight, whoever reads it."""
    return layer.compute_dtype if isinstance(layer, QuantLinear) else cast(Tensor, layer._parameters["weight"]).dtype


def _shape(layer: nn.Module) -> tuple[int, ...]:
    return layer.shape if isinstance(layer, FrozenLinear) else tuple(cast(Tensor, layer._parameters["weight"]).shape)
