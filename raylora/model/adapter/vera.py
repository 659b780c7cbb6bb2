"""VeRA: two vectors train on each layer, and scale random matrices that all layers of an adapter share.

y = x W^T + b * (B (d * (A z))), A and B frozen. To the products it is LoRA with the matrices diag(d) A and diag(b) B.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from raylora.model.adapter.slot import Slot
from raylora.model.adapter.update import Tensors, Update
from raylora.model.base.frozen_linear import FrozenLinear

D, B = "vera_lambda_d", "vera_lambda_b"


@dataclass(frozen=True, eq=False)
class Projection:
    """Random matrices as large as the largest layer of an adapter; smaller ones take a part.

    Args:
        a_RI: A.
        b_OR: B.
    """

    a_RI: Tensor
    b_OR: Tensor


class Projections:
    """The random matrices of a bank, each pair held once for as long as an adapter uses it.

    Args:
        device: Where they live; on the meta device they have no values.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: weakref.WeakValueDictionary[tuple[int, ...], Projection] = weakref.WeakValueDictionary()

    def of(self, settings: Slot, layers: Sequence[FrozenLinear]) -> Projection | None:
        """The matrices of an adapter, ``None`` where its kind has none.

        Args:
            settings: Of the adapter.
            layers: Those that get it.
        """
        if settings.vera is None:
            return None
        num_outputs, num_inputs = (
            max(getattr(layer, side) for layer in layers) for side in ("out_features", "in_features")
        )
        key = (settings.vera.projection_prng_key, settings.r, num_outputs, num_inputs)
        if (found := self._held.get(key)) is None:
            found = self._held[key] = random_projection(*key, self._device)
        return found


class VeraUpdate(Update):
    """What one slot adds on one layer.

    Args:
        settings: Of the adapter.
        projection: The random matrices.
        layer: The frozen layer.

    Source: VeRA, https://arxiv.org/abs/2310.11454, equation 2.
    """

    def __init__(self, settings: Slot, projection: Projection, layer: FrozenLinear) -> None:
        super().__init__(settings, projection.a_RI[:, : layer.in_features], projection.b_OR[: layer.out_features])
        assert settings.vera is not None
        self._projection, device = projection, projection.a_RI.device
        self.a_RI.requires_grad_(False)
        self.b_OR.requires_grad_(False)
        self._d_R = nn.Parameter(torch.full((settings.r,), settings.vera.d_initial, device=device))
        self._b_O = nn.Parameter(torch.zeros(layer.out_features, device=device))
        self.trained = {D: self._d_R, B: self._b_O}

    @property
    @override
    def frozen(self) -> Tensors:
        """The random matrices, whole; all layers share them."""
        return self._projection.a_RI, self._projection.b_OR

    @override
    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return (self._d_R[:, None] * self.a_RI).to(dtype), (self._b_O[:, None] * self.b_OR).to(dtype)

    @override
    def gradients(self, grad_a: Tensor, grad_b: Tensor) -> Tensors:
        return (grad_a.float() * self.a_RI).sum(1), (grad_b.float() * self.b_OR).sum(1)


def random_projection(prng_key: int, r: int, num_outputs: int, num_inputs: int, device: torch.device) -> Projection:
    """The random matrices of a key, in the order and by the generator of PEFT, which makes them again from it.

    Args:
        prng_key: Seed, at least 0.
        r: Rank.
        num_outputs: Of the layer with most.
        num_inputs: Of the layer with most.
        device: Where they are to live; on the meta device they have no values.
    """
    generator = torch.Generator().manual_seed(prng_key)
    a_RI = _uniform((r, num_inputs), generator, device)
    return Projection(a_RI, _uniform((num_outputs, r), generator, device))


def _uniform(shape: tuple[int, int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Kaiming's uniform start for the second side."""
    if device.type == "meta":
        return torch.empty(shape, device=device)
    bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(shape[1]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).to(device)
