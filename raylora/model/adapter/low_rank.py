"""The low-rank updates on one frozen linear layer: its output plus what the adapters of some slots add to their tokens.

Tokens of a forward pass lie slot by slot. Each slot's products are calls of their own, or batched calls that give each
slot the bits of its own: a pack trains every adapter to the bits it would have without the others. The layer takes the
place of the frozen layer's ``forward`` and keeps its parameters outside the module tree, so that no strategy that
places the base ever sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raylora.model.adapter.site import Site
from raylora.model.adapter.slot import Slot
from raylora.model.adapter.stack import Stack, likeness
from raylora.model.adapter.update import Addition, Tensors, Tokens, Update
from raylora.model.adapter.vera import Projection
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.base.product import frozen_product
from raylora.model.rows.dropout import draw_kept
from raylora.model.rows.route import Placed, Route

Part = tuple[Addition, Tokens]
"""What one slot does in a forward pass, or several alike, and on which tokens."""


class _AdaptedLinear(torch.autograd.Function):
    """y = x W^T + b, and for the tokens of each slot what is added to it, as one node.

    Additions go into the product that is there already, and the frozen weight is whole for as long as products with it
    take. Parameters are arguments for their gradients' sake alone.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, held: Tensor, base: FrozenLinear, parts: Sequence[Part], *trained: Tensor
    ) -> Tensor:
        weight_OI = base.whole(held, x_NI.dtype)
        y_NO = frozen_product(x_NI, weight_OI, base.bias)
        met = [addition.meet(tokens, x_NI, weight_OI) for addition, tokens in parts]
        del weight_OI
        kept: list[Tensor] = []
        ends = []
        for (addition, tokens), tensors in zip(parts, met, strict=True):
            kept += addition.add(tokens, x_NI, y_NO[tokens.where], tensors)
            ends.append(len(kept))
        ctx.save_for_backward(x_NI, held, *kept)
        ctx.base, ctx.parts, ctx.ends = base, parts, ends
        return y_NO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_y_NO,) = grads
        x_NI, held, *saved = ctx.saved_tensors
        kept = [tuple(saved[start:end]) for start, end in zip([0, *ctx.ends], ctx.ends, strict=False)]
        parts = list(zip(ctx.parts, kept, strict=True))
        grad_x_NI = _through_base(ctx.base, held, grad_y_NO, parts) if ctx.needs_input_grad[0] else None
        grad_trained: list[Tensor] = []
        for (addition, tokens), tensors in parts:
            part_NI = None if grad_x_NI is None else grad_x_NI[tokens.where]
            grad_trained += addition.backward(tokens, x_NI, grad_y_NO[tokens.where], part_NI, tensors)
        return grad_x_NI, None, None, None, *grad_trained


def _through_base(base: FrozenLinear, held: Tensor, grad_y_NO: Tensor, parts: Sequence[tuple[Part, Tensors]]) -> Tensor:
    """The gradient of the inputs as far as it takes the frozen weight."""
    grad_base_NO = grad_y_NO
    for (addition, tokens), kept in parts:
        grad_base_NO = addition.inward(tokens, grad_y_NO, grad_base_NO, kept)
    weight_OI = base.whole(held, grad_y_NO.dtype)
    grad_x_NI = frozen_product(grad_base_NO, weight_OI.t())
    for (addition, tokens), kept in parts:
        addition.outward(tokens, grad_y_NO[tokens.where], grad_x_NI[tokens.where], weight_OI, kept)
    return grad_x_NI


class LowRank:
    """What the updates of some slots make of a frozen layer's output.

    Args:
        site: The layer.
        route: Whose tokens a forward pass holds; shared by the layers of a bank.
    """

    def __init__(self, site: Site, route: Route) -> None:
        self.name, self.updates = site.name, dict[int, Update]()
        self._site, self._base, self._route = site, site.base, route
        self._plain = site.base.forward
        site.base.forward = self._forward  # type: ignore[method-assign]

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features."""
        return self._base.shape

    def admit(self, slot: int, settings: Slot, projection: Projection | None = None) -> None:
        """Start an adapter.

        Args:
            slot: One without an adapter on this layer.
            settings: Of the adapter; its seed and the layer's name decide its values.
            projection: What its layers share, where its kind has that.
        """
        self.updates[slot] = self._site.update(settings, projection)

    def _forward(self, input: Tensor) -> Tensor:
        x_NI = input.reshape(-1, self._base.in_features)
        placed = [part for part in self._route.placed(len(x_NI)) if part.span.slot in self.updates]
        if not placed:
            return self._plain(input)
        parts = [self._part(x_NI, run, is_stack) for run, is_stack in self._runs(x_NI, placed)]
        trained = [parameter for addition, _ in parts for parameter in addition.parameters]
        y_NO: Tensor = _AdaptedLinear.apply(x_NI, self._base.held, self._base, parts, *trained)
        return y_NO.view(*input.shape[:-1], self._base.out_features)

    def _runs(self, x_NI: Tensor, placed: Sequence[Placed]) -> list[tuple[list[Placed], bool]]:
        """Neighbours that are alike, each of the others by itself; and whether they are a stack."""
        runs: list[tuple[list[Placed], bool]] = []
        last, end = None, 0
        for part in placed:
            alike = likeness(self.updates[part.span.slot], part.num_inputs, x_NI.dtype)
            if alike is not None and alike == last and part.start == end:
                runs[-1][0].append(part)
            else:
                runs.append(([part], alike is not None))
            last, end = alike, part.where.stop
        return runs

    def _part(self, x_NI: Tensor, run: Sequence[Placed], is_stack: bool) -> Part:
        updates = [self.updates[part.span.slot] for part in run]
        return Stack(updates) if is_stack else updates[0], self._tokens(x_NI, run)

    def _tokens(self, x_NI: Tensor, run: Sequence[Placed]) -> Tokens:
        settings = self.updates[run[0].span.slot].settings
        where = slice(run[0].start, run[-1].where.stop)
        keep, kept_NI = 1.0 - settings.dropout, None
        if settings.dropout and self._route.training:
            kept_NI = torch.empty(where.stop - where.start, x_NI.shape[1], dtype=torch.bool, device=x_NI.device)
            spans = [part.span for part in run]
            seeds = [self.updates[span.slot].settings.seed for span in spans]
            draw_kept(kept_NI, keep, self.name, spans, seeds)
        return Tokens(where, keep, kept_NI)
