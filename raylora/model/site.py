"""The place of adapters on one frozen layer: settings enter, an update of the kind that they ask for leaves.

Called by the low-rank layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raylora.model.dora import DoraUpdate
from raylora.model.frozen_linear import FrozenLinear
from raylora.model.residual import ResidualUpdate
from raylora.model.slot import Slot
from raylora.model.start import base_start, random_start
from raylora.model.update import Update
from raylora.model.vera import Projection, VeraUpdate

WeightReader = Callable[[str], Tensor]
"""Gives a layer's weight, whole and as the base holds it, in float32, by the layer's dotted name."""


class Site:
    """Where updates of one layer start.

    Args:
        name: Dotted name of the layer; with a slot's seed it seeds the start.
        base: The layer.
        device: Where the updates live; on the meta device they have no values.
        read_weight: Reads the weight; ``None`` where the layer itself holds all of it.
    """

    def __init__(self, name: str, base: FrozenLinear, device: torch.device, read_weight: WeightReader | None) -> None:
        self.name, self.base = name, base
        self._device, self._read_weight = device, read_weight
        self._squares_O: Tensor | None = None

    def update(self, settings: Slot, projection: Projection | None) -> Update:
        """A new update at its start.

        Args:
            settings: Of the adapter.
            projection: What its layers share, where its kind has that.
        """
        if projection is not None:
            return VeraUpdate(settings, projection, self.base)
        a_RI = torch.empty(settings.r, self.base.in_features, device=self._device)
        b_OR = torch.zeros(self.base.out_features, settings.r, device=self._device)
        if settings.starts_from_base:
            if not a_RI.is_meta:
                for matrix, start in zip((a_RI, b_OR), base_start(settings, self.name, self._weight()), strict=True):
                    matrix.copy_(start)
            return ResidualUpdate(settings, a_RI, b_OR)
        if not a_RI.is_meta:
            a_RI.copy_(random_start(settings, self.name, self.base.in_features))
        if settings.use_dora:
            return DoraUpdate(settings, a_RI, b_OR, self.base, self._squares())
        return Update(settings, a_RI, b_OR)

    def _squares(self) -> Tensor:
        """Squared norms of the weight's rows, computed once for all slots."""
        if self._squares_O is None:
            is_meta = self._device.type == "meta"
            empty_O = torch.empty(self.base.out_features, device=self._device)
            self._squares_O = empty_O if is_meta else self._weight().square().sum(1)
        return self._squares_O

    def _weight(self) -> Tensor:
        if self._read_weight is not None:
            return self._read_weight(self.name)
        return self.base.whole(self.base.held.detach(), torch.float32).float()
