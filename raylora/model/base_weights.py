"""Weights of a base's frozen layers, each whole, on a rank that may hold a part of it.

The model and its folder enter; one layer's weight leaves, as the base holds it or as it was before quantization. Called
by what starts adapters. No other rank is asked: a rank may have to start an adapter that the others have nothing to do
with.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from raylora.model.frozen_linear import FrozenLinear, QuantLinear
from raylora.model.load import Weights


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
        owner = self._model.get_submodule(name)
        layer = cast(FrozenLinear, getattr(owner, "base_layer", owner))  # PEFT wraps it
        if not self._is_sharded:
            return layer.whole(layer.held.detach(), torch.float32).float()
        weight_OI = self._read(name)
        if not isinstance(layer, QuantLinear):
            return weight_OI.to(layer.weight.dtype).float()
        return layer.format.unpack(layer.format.pack(weight_OI.to(layer.compute_dtype)), layer.shape, torch.float32)

    def original(self, name: str) -> Tensor:
        """A layer's weight as the files have it.

        Args:
            name: Dotted name of a frozen linear layer.

        Shapes:
            Returns (O, I), float32.
        """
        return self._read(name).float()

    def _read(self, name: str) -> Tensor:
        return self._files.read(f"{name}.weight").to(self._device)

    @cached_property
    def _files(self) -> Weights:
        assert self._folder is not None
        return Weights(self._folder)
