"""Dropout of a base itself, drawn for each row of a slot by its seed: encoders are published with it.

Torch's own draws once for all rows of a pass, so that a row would draw otherwise beside those of another adapter, on
another rank, or behind more padding. The modules of a base that draw are replaced where a bank is put on it, and those
of a head where a slot gets one. Called by the packed bank, the heads and the attention by rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from raylora.model.rows.dropout import draw_kept, draw_row
from raylora.model.rows.route import Route, Span

OF_BOTH_ENDS = frozenset({"encoder.dropout", "decoder.dropout"})
"""Dropouts of a T5 that draw twice in a pass: before the first block of a side, and after the last."""


class RowDropout(nn.Module):
    """Takes the place of one dropout.

    Args:
        name: Of its place in the model; with a slot's seed, its step and the row it seeds the draw.
        p: Probability of dropping a value, below 1.
        route: Whose tokens a forward pass holds. Of what is nobody's nothing is dropped.
    """

    def __init__(self, name: str, p: float, route: Route) -> None:
        super().__init__()
        self.p = p  # an attention reads it
        self._name, self._route = name, route

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Drop values of tokens, or of what a pooler makes of each row; the last axis is a token's."""
        if not self.training or not self.p:
            return x
        kept = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        kept_NH, name = kept.view(-1, x.shape[-1]), self._route.name_of_draw(self._name)
        for part in self._route.placed(len(kept_NH)):
            if part.span.slot in self._route.seeds:
                seeds = [self._route.seeds[part.span.slot]]
                draw_kept(kept_NH[part.where], 1.0 - self.p, name, [part.span], seeds)
        return self._thinned(x, kept)  # no view: FSDP2 hangs its backward pass on what a block hands on

    def of_rows(self, num_rows: int, of_targets: bool = False) -> list[Callable[[Tensor], Tensor]]:
        """What drops an attention's weights within each row on the line of the pass.

        Args:
            num_rows: On the line, those of nobody among them.
            of_targets: Whether it is the line of targets.
        """
        spans = [span.of_targets if of_targets else span for span in self._route.spans]
        owned = [(span, row) for span in spans for row, _ in span.rows]
        return [partial(self._of_row, span, row) for span, row in owned] + [_kept] * (num_rows - len(owned))

    def _of_row(self, span: Span, row: int, weights: Tensor) -> Tensor:
        if span.slot not in self._route.seeds:
            return weights
        kept, keep = torch.empty(weights.shape, dtype=torch.bool, device=weights.device), 1.0 - self.p
        draw_row(kept, keep, self._name, span.step, row, self._route.seeds[span.slot])
        return self._thinned(weights, kept)

    def _thinned(self, x: Tensor, kept: Tensor) -> Tensor:
        return (x * kept).div(1.0 - self.p)


def _kept(weights: Tensor) -> Tensor:
    return weights


def draw_by_rows(module: nn.Module, name: str, route: Route) -> None:
    """Replace every dropout inside of a module.

    Args:
        module: Changed in place.
        name: Of the module in its model; empty for the model itself.
        route: As of `RowDropout`.
    """
    for parent_name, parent in list(module.named_modules(prefix=name)):
        for leaf, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, leaf, RowDropout(f"{parent_name}.{leaf}".lstrip("."), child.p, route))
        if hasattr(parent, "compute_bias"):  # T5's attention has a number
            parent.dropout = RowDropout(f"{parent_name}.dropout", parent.dropout, route)
