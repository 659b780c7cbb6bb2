"""The stacked low-rank layer: one frozen linear layer's output plus the updates of K adapters.

Rows of a batch lie slot by slot. The layer takes the place of the frozen layer's ``forward`` and keeps its
parameters outside the module tree, so that no strategy that places the base ever sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raylora.model.frozen_linear import held_weight, whole_weight
from raylora.model.seed import stable_seed

BUCKETS = (8, 16, 32, 64, 128, 256, 512)
"""Ranks are padded to these: slots of different ranks share one matrix product, and no slot's numbers depend on
its neighbours' ranks."""


def rank_bucket(r: int) -> int:
    """The smallest bucket that holds rank ``r``; ranks above the last are their own bucket."""
    return next((bucket for bucket in BUCKETS if bucket >= r), r)


@dataclass(frozen=True)
class Slot:
    """One adapter's settings.

    Args:
        r: Rank, at least 1.
        alpha: Scale of the update is ``alpha / r``.
        dropout: Probability of dropping an input, 0 to below 1.
        seed: Seed of the start and of dropout.
    """

    r: int
    alpha: float
    dropout: float
    seed: int

    @property
    def scale(self) -> float:
        """What the update is multiplied by: alpha over r (LoRA, section 4.1)."""
        return self.alpha / self.r


@dataclass
class Clock:
    """Where training stands; dropout masks are a pure function of it, so recomputation repeats them."""

    step: int = 0
    micro_step: int = 0
    rank: int = 0
    training: bool = True


class _AdaptedLinear(torch.autograd.Function):
    """y = x W^T + b + scale_k (z A_k^T) B_k^T for each slot k, as one node; z is x, or x after dropout.

    Both sums go into a product that is there already, and the frozen weight is whole for two products only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_KNI: Tensor,
        dropped_KNI: Tensor | None,
        a_KRI: Tensor,
        b_KOR: Tensor,
        scale_K11: Tensor,
        held: Tensor,
        base: nn.Linear,
    ) -> Tensor:
        dtype = x_KNI.dtype
        z_KNI = x_KNI if dropped_KNI is None else dropped_KNI
        h_KNR = torch.bmm(z_KNI, a_KRI.to(dtype).mT).mul_(scale_K11)
        y_KNO = F.linear(x_KNI, whole_weight(base, held, dtype), base.bias)
        ctx.save_for_backward(z_KNI, h_KNR, a_KRI, b_KOR, scale_K11, held)
        ctx.base, ctx.drops = base, dropped_KNI is not None
        return y_KNO.baddbmm_(h_KNR, b_KOR.to(dtype).mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_y_KNO,) = grads
        z_KNI, h_KNR, a_KRI, b_KOR, scale_K11, held = ctx.saved_tensors
        dtype = grad_y_KNO.dtype
        grad_h_KNR = torch.bmm(grad_y_KNO, b_KOR.to(dtype)).mul_(scale_K11)
        grad_a_KRI = torch.bmm(grad_h_KNR.mT, z_KNI).to(a_KRI.dtype)
        grad_b_KOR = torch.bmm(grad_y_KNO.mT, h_KNR).to(b_KOR.dtype)
        grad_x_KNI = grad_dropped_KNI = None
        if ctx.needs_input_grad[0]:
            grad_x_KNI = grad_y_KNO @ whole_weight(ctx.base, held, dtype)
            if ctx.drops:
                grad_dropped_KNI = torch.bmm(grad_h_KNR, a_KRI.to(dtype))
            else:
                grad_x_KNI.baddbmm_(grad_h_KNR, a_KRI.to(dtype))
        return grad_x_KNI, grad_dropped_KNI, grad_a_KRI, grad_b_KOR, None, None, None


class LowRank:
    """y + scale_k (x A_k^T) B_k^T for each slot k.

    Args:
        name: Dotted name of the frozen layer; with a slot's seed it seeds the start.
        base: The frozen layer.
        slots: The adapters, one a slot.
        clock: Shared by the layers of a bank.
        device: Where the parameters live.

    Shapes:
        a_KRI: (K, R, I), R the bucket of the largest rank; b_KOR: (K, O, R). float32.

    Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3.
    """

    def __init__(self, name: str, base: nn.Linear, slots: tuple[Slot, ...], clock: Clock, device: torch.device) -> None:
        self.name, self._slots, self._clock = name, slots, clock
        num_ranks = rank_bucket(max(slot.r for slot in slots))
        a_KRI = torch.zeros(len(slots), num_ranks, base.in_features, device=device)
        if not a_KRI.is_meta:  # an estimate needs no values
            for k, slot in enumerate(slots):
                a_KRI[k, : slot.r] = _start(slot, name, base.in_features)
        self.a_KRI = nn.Parameter(a_KRI)
        self.b_KOR = nn.Parameter(torch.zeros(len(slots), base.out_features, num_ranks, device=device))
        self._scale_K11 = torch.tensor([slot.scale for slot in slots], device=device).view(-1, 1, 1)
        self._base = base
        base.forward = self._forward  # type: ignore[method-assign]

    def _forward(self, input: Tensor) -> Tensor:
        x_KNI = input.reshape(len(self._slots), -1, input.shape[-1])
        drops = self._clock.training and any(slot.dropout for slot in self._slots)
        y_KNO: Tensor = _AdaptedLinear.apply(
            x_KNI,
            x_KNI * self._dropout(x_KNI) if drops else None,
            self.a_KRI,
            self.b_KOR,
            self._scale_K11.to(input.dtype),
            held_weight(self._base),
            self._base,
        )
        return y_KNO.view(*input.shape[:-1], -1)

    def _dropout(self, x_KNI: Tensor) -> Tensor:
        mask_KNI = torch.ones_like(x_KNI)
        for k, slot in enumerate(self._slots):
            if slot.dropout:
                keep = 1.0 - slot.dropout
                mask_KNI[k].bernoulli_(keep, generator=self._generator(slot, x_KNI.device)).div_(keep)
        return mask_KNI

    def _generator(self, slot: Slot, device: torch.device) -> torch.Generator:
        clock = self._clock
        seed = stable_seed("dropout", slot.seed, self.name, clock.step, clock.micro_step, clock.rank)
        return torch.Generator("cpu" if device.type == "meta" else device).manual_seed(seed)


def _start(slot: Slot, name: str, num_inputs: int) -> Tensor:
    """Uniform in +-1/sqrt(I), as ``nn.Linear`` and PEFT start A."""
    generator = torch.Generator().manual_seed(stable_seed("start", slot.seed, name))
    bound = num_inputs**-0.5
    return torch.empty(slot.r, num_inputs).uniform_(-bound, bound, generator=generator)
