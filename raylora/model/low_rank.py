"""The stacked low-rank layer: one frozen linear layer's output plus the updates of K adapters.

Rows of a batch lie slot by slot. The layer hooks the frozen layer's forward pass and keeps its
parameters outside the module tree, so that no strategy that places the base ever sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
        base.register_forward_hook(self._add_update)

    def _add_update(self, base: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        (x,) = inputs
        num_slots = len(self._slots)
        x_KNI = x.reshape(num_slots, -1, x.shape[-1])
        if self._clock.training and any(slot.dropout for slot in self._slots):
            x_KNI = x_KNI * self._dropout(x_KNI)
        a_KRI, b_KOR = self.a_KRI.to(x.dtype), self.b_KOR.to(x.dtype)
        h_KNR = torch.bmm(x_KNI, a_KRI.transpose(1, 2)) * self._scale_K11.to(x.dtype)
        y_KNO = y.reshape(num_slots, -1, y.shape[-1])
        return torch.baddbmm(y_KNO, h_KNR, b_KOR.transpose(1, 2)).view_as(y)

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
