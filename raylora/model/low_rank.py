"""The low-rank updates on one frozen linear layer: its output plus what the adapters of some slots add to their tokens.

Tokens of a forward pass lie slot by slot, and each slot's products are calls of their own, with the shapes and kernels
of the slot alone: a pack trains every adapter to the bits it would have without the others. The layer takes the place
of the frozen layer's ``forward`` and keeps its parameters outside the module tree, so that no strategy that places the
base ever sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raylora.model.frozen_linear import FrozenLinear
from raylora.model.product import add_product, frozen_product, product
from raylora.model.route import Route, Span
from raylora.model.seed import stable_seed


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


@dataclass(frozen=True)
class Update:
    """One slot's matrices on one layer.

    Shapes:
        a_RI: (R, I). b_OR: (O, R). float32.
    """

    settings: Slot
    a_RI: nn.Parameter
    b_OR: nn.Parameter


@dataclass(frozen=True)
class _Part:
    """The tokens of one slot in a forward pass, and which of their inputs dropout keeps."""

    tokens: slice
    scale: float
    keep: float
    kept_NI: Tensor | None

    def of(self, x_NI: Tensor) -> Tensor:
        """The slot's inputs after dropout."""
        return self.thin(x_NI[self.tokens])

    def thin(self, x_NI: Tensor) -> Tensor:
        """Dropout of values that belong to the slot's tokens."""
        return x_NI if self.kept_NI is None else (x_NI * self.kept_NI).div_(self.keep)


class _AdaptedLinear(torch.autograd.Function):
    """y = x W^T + b, and for the tokens of each slot k + scale_k (z A_k^T) B_k^T, as one node; z is x after dropout.

    Updates go into the product that is there already, and the frozen weight is whole for two products only.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, held: Tensor, base: FrozenLinear, parts: Sequence[_Part], *matrices: Tensor
    ) -> Tensor:
        dtype = x_NI.dtype
        y_NO = frozen_product(x_NI, base.whole(held, dtype), base.bias)
        inner = []
        for part, a_RI, b_OR in zip(parts, matrices[::2], matrices[1::2], strict=True):
            h_NR = product(part.of(x_NI), a_RI.to(dtype)).mul_(part.scale)
            add_product(y_NO[part.tokens], h_NR, b_OR.to(dtype))
            inner.append(h_NR)
        ctx.save_for_backward(x_NI, held, *matrices, *inner)
        ctx.base, ctx.parts = base, parts
        return y_NO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_y_NO,) = grads
        x_NI, held, *saved = ctx.saved_tensors
        parts, dtype = ctx.parts, grad_y_NO.dtype
        matrices, inner = saved[: 2 * len(parts)], saved[2 * len(parts) :]
        grad_x_NI = frozen_product(grad_y_NO, ctx.base.whole(held, dtype).t()) if ctx.needs_input_grad[0] else None
        grad_matrices: list[Tensor] = []
        for part, a_RI, b_OR, h_NR in zip(parts, matrices[::2], matrices[1::2], inner, strict=True):
            grad_NO = grad_y_NO[part.tokens]
            grad_h_NR = product(grad_NO, b_OR.to(dtype).t()).mul_(part.scale)
            grad_matrices.append(product(grad_h_NR.t(), part.of(x_NI).t()).to(a_RI.dtype))
            grad_matrices.append(product(grad_NO.t(), h_NR.t()).to(b_OR.dtype))
            if grad_x_NI is None:
                continue
            if part.kept_NI is None:
                add_product(grad_x_NI[part.tokens], grad_h_NR, a_RI.to(dtype).t())
            else:
                grad_x_NI[part.tokens] += part.thin(product(grad_h_NR, a_RI.to(dtype).t()))
        return grad_x_NI, None, None, None, *grad_matrices


class LowRank:
    """y + scale_k (x A_k^T) B_k^T for the tokens of each slot k that has an adapter here.

    Args:
        name: Dotted name of the frozen layer; with a slot's seed it seeds the start.
        base: The frozen layer.
        route: Whose tokens a forward pass holds; shared by the layers of a bank.
        device: Where the parameters live.

    Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3.
    """

    def __init__(self, name: str, base: FrozenLinear, route: Route, device: torch.device) -> None:
        self.name, self.updates = name, dict[int, Update]()
        self._base, self._route, self._device = base, route, device
        self._plain = base.forward
        base.forward = self._forward  # type: ignore[method-assign]

    def admit(self, slot: int, settings: Slot) -> None:
        """Start an adapter: A random, B zero.

        Args:
            slot: One without an adapter on this layer.
            settings: Of the adapter; its seed and the layer's name decide the values of A.
        """
        num_inputs, num_outputs = self._base.in_features, self._base.out_features
        a_RI = torch.empty(settings.r, num_inputs, device=self._device)
        if not a_RI.is_meta:  # an estimate needs no values
            a_RI.copy_(_start(settings, self.name, num_inputs))
        b_OR = torch.zeros(num_outputs, settings.r, device=self._device)
        self.updates[slot] = Update(settings, nn.Parameter(a_RI), nn.Parameter(b_OR))

    def _forward(self, input: Tensor) -> Tensor:
        spans = [(start, span) for start, span in self._route.starts() if span.slot in self.updates]
        if not spans:
            return self._plain(input)
        x_NI = input.reshape(-1, self._base.in_features)
        parts = [self._part(x_NI, start, span) for start, span in spans]
        updates = [self.updates[span.slot] for _, span in spans]
        matrices = [matrix for update in updates for matrix in (update.a_RI, update.b_OR)]
        y_NO: Tensor = _AdaptedLinear.apply(x_NI, self._base.held, self._base, parts, *matrices)
        return y_NO.view(*input.shape[:-1], self._base.out_features)

    def _part(self, x_NI: Tensor, start: int, span: Span) -> _Part:
        settings = self.updates[span.slot].settings
        num_tokens = len(x_NI) if span.num_tokens is None else span.num_tokens
        keep, kept_NI = 1.0 - settings.dropout, None
        if settings.dropout and self._route.training:
            kept_NI = torch.empty(num_tokens, x_NI.shape[1], dtype=torch.bool, device=x_NI.device)
            kept_NI.bernoulli_(keep, generator=self._generator(settings, span, x_NI.device))
        return _Part(slice(start, start + num_tokens), settings.scale, keep, kept_NI)

    def _generator(self, settings: Slot, span: Span, device: torch.device) -> torch.Generator:
        """Masks are a pure function of where the slot's training stands, so recomputation repeats them."""
        seed = stable_seed("dropout", settings.seed, self.name, span.step, span.micro_step, span.rank)
        return torch.Generator("cpu" if device.type == "meta" else device).manual_seed(seed)


def _start(slot: Slot, name: str, num_inputs: int) -> Tensor:
    """Uniform in +-1/sqrt(I), as ``nn.Linear`` and PEFT start A."""
    generator = torch.Generator().manual_seed(stable_seed("start", slot.seed, name))
    bound = num_inputs**-0.5
    return torch.empty(slot.r, num_inputs).uniform_(-bound, bound, generator=generator)
