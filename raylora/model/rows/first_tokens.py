"""What looks at the first token of a line, where the rows of a pass lie one after the other on one line.

A pooler, or a head that looks at whole lines, takes a line's first token (BERT's, RoBERTa's): on the one line of such a
pass there is one for each row. Called by the attention by rows and by the readout of heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


def first_tokens(hidden_1NH: Tensor, row_lengths: Sequence[int]) -> Tensor:
    """The first token of each row, as lines of one token.

    Args:
        hidden_1NH: Tokens of the rows, one row after the other.
        row_lengths: Tokens of each row, at least 1.

    Shapes:
        Returns (B, 1, H).
    """
    starts = [0, *accumulate(row_lengths[:-1])]
    return hidden_1NH[0, torch.tensor(starts, device=hidden_1NH.device)][:, None]


def rows_of(places_N: Tensor, row_lengths: Sequence[int]) -> Tensor:
    """The row that each place on the line is in, from 0.

    Args:
        places_N: Numbers of tokens on the line.
        row_lengths: As of `first_tokens`.
    """
    ends_B = torch.tensor(list(accumulate(row_lengths)), device=places_N.device)
    return torch.searchsorted(ends_B, places_N, right=True)
