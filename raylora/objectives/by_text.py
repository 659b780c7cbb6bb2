"""Numbers of labelled tokens become sums over the texts that they are of; called by objectives that compare texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sums_by_text(values_N: Tensor, label_counts: Sequence[int]) -> Tensor:
    """Sum over the labelled tokens of each text.

    Args:
        values_N: One of each labelled token, text by text.
        label_counts: Labelled tokens of each text.

    Shapes:
        values_N: (N,). Returns (S,), S texts.
    """
    counts_S = torch.tensor(label_counts, dtype=torch.int64, device=values_N.device)
    texts_N = torch.repeat_interleave(torch.arange(len(counts_S), device=values_N.device), counts_S)
    return values_N.new_zeros(len(counts_S)).index_add(0, texts_N, values_N)
