"""The place of adapters on one frozen layer: settings enter, an update of the kind that they ask for leaves.

Called by the low-rank layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raylora.model.adapter.adalora import AdaLoraUpdate
from raylora.model.adapter.dora import DoraUpdate
from raylora.model.adapter.residual import ResidualUpdate
from raylora.model.adapter.slot import Slot
from raylora.model.adapter.start import base_start, random_start, small_start
from raylora.model.adapter.update import Update
from raylora.model.adapter.vera import Projection, VeraUpdate
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.frozen_linear import FrozenLinear


class Site:
    """Where updates of one layer start.

    Args:
        name: Dotted name of the layer; with a slot's seed it seeds the start.
        base: The layer.
        device: Where the updates live; on the meta device they have no values.
        weights: Reads the layer's weight.
    """

    def __init__(self, name: str, base: FrozenLinear, device: torch.device, weights: BaseWeights) -> None:
        self.name, self.base = name, base
        self._device, self._weights = device, weights
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
        if not a_RI.is_meta:
            self._fill(settings, a_RI, b_OR)
        if settings.use_adalora:
            return AdaLoraUpdate(settings, a_RI, b_OR)
        if settings.starts_from_base:
            return ResidualUpdate(settings, a_RI, b_OR)
        if settings.use_dora:
            return DoraUpdate(settings, a_RI, b_OR, self.base, self._squares())
        return Update(settings, a_RI, b_OR)

    def _fill(self, settings: Slot, a_RI: Tensor, b_OR: Tensor) -> None:
        """Put values into an A, and into a B where it does not start at zero."""
        if settings.use_adalora:
            pair = small_start(settings, self.name, self.base.shape)
        elif settings.starts_from_base:
            pair = base_start(settings, self.name, self._weights.held(self.name))
        elif settings.init_lora_weights == "loftq":
            lost_OI = self._weights.original(self.name) - self._weights.held(self.name)
            pair = base_start(settings, self.name, lost_OI)
        else:
            a_RI.copy_(random_start(settings, self.name, self.base.in_features))
            return
        for matrix, start in zip((a_RI, b_OR), pair, strict=True):
            matrix.copy_(start)

    def _squares(self) -> Tensor:
        """Squared norms of the weight's rows, computed once for all slots."""
        if self._squares_O is None:
            is_meta = self._device.type == "meta"
            empty_O = torch.empty(self.base.out_features, device=self._device)
            self._squares_O = empty_O if is_meta else self._weights.held(self.name).square().sum(1)
        return self._squares_O
