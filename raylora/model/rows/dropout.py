"""Which inputs dropout keeps: drawn by slot, layer, step and row.

So a mask is drawn again where a block is computed again, and is the same whichever rank or micro-batch a row is in and
whoever's rows lie beside it. Called by the low-rank layers, by the heads and by the dropout of a base itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raylora.model.rows.route import Span
from raylora.model.rows.seed import stable_seed


def draw_kept(kept_NI: Tensor, keep: float, name: str, spans: Sequence[Span], seeds: Sequence[int]) -> None:
    """Fill in what dropout keeps.

    Args:
        kept_NI: Of neighbouring tokens; filled in place.
        keep: Probability, above 0.
        name: Of the layer.
        spans: Whose tokens they are, with equally many each.
        seeds: Of the slots of these spans.

    Shapes:
        kept_NI: (N, I), bool.
    """
    rest_NI = kept_NI
    for span, seed in zip(spans, seeds, strict=True):
        for row, num_tokens in _rows(span, len(kept_NI) // len(spans)):
            draw_row(rest_NI[:num_tokens], keep, name, span.step, row, seed)
            rest_NI = rest_NI[num_tokens:]


def draw_row(kept: Tensor, keep: float, name: str, step: int, row: int, seed: int) -> None:
    """Fill in what dropout keeps of one row.

    Args:
        kept: Bools of whatever shape, always the same one for a row; filled in place.
        keep: Probability, above 0.
        name: Of the layer.
        step: Where the slot's training stands, from 0.
        row: Number of the row.
        seed: Of the slot's run.
    """
    generator = torch.Generator("cpu" if kept.is_meta else kept.device)
    generator.manual_seed(stable_seed("dropout", seed, name, step, row))
    kept.bernoulli_(keep, generator=generator)


def _rows(span: Span, num_inputs: int) -> Sequence[tuple[int, int]]:
    """Each row and its inputs: a layer behind a pooler takes one of each row, no padding."""
    if sum(num_tokens for _, num_tokens in span.rows) == num_inputs:
        return span.rows
    real = [row for row, _ in span.rows if row >= 0]
    if len(real) == num_inputs:
        return [(row, 1) for row in real]
    return span.rows or [(0, num_inputs)]
