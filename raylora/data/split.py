"""Which rows are for validation, by seed.

Enters: a key for each row's content and the specification's `val_set_size`. Leaves: the positions of either side.
Called by prepare.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raylora.data.order import Purpose, permutation
from raylora.errors import DataError


def split_rows(
    content: NDArray[np.int64], val_set_size: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows so that no content is on both sides; rows of equal content stay together.

    Args:
        content: A key of each row's tokens. Shape: [rows].
        val_set_size: Fraction of the rows below 1, or a number of rows. Rows that occur several times can leave
            the validation side somewhat smaller.
        seed: Decides the split, together with the contents alone: not their order.

    Returns:
        Positions of the training and of the validation rows, ascending.

    Raises:
        DataError: One of the sides would be empty.
    """
    num_rows = len(content)
    wanted = round(val_set_size * num_rows if val_set_size < 1 else val_set_size)
    unique, group, sizes = np.unique(content, return_inverse=True, return_counts=True)
    shuffled = permutation(len(unique), Purpose.SPLIT, seed)
    is_validation = np.isin(group, shuffled[_fitting(sizes[shuffled], wanted)])
    if not 0 < is_validation.sum() < num_rows:
        which = "no row for validation" if not is_validation.any() else "no row for training"
        raise DataError(
            f"val_set_size: {val_set_size:g} of {num_rows:,} rows ({len(unique):,} different) leaves {which}; "
            "give a fraction below 1 or a number of rows, or name test_datasets"
        )
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


def _fitting(sizes: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Which groups are taken, one after the other: one with more rows than are still wanted is passed over."""
    waiting, taken = np.arange(len(sizes)), [np.arange(0)]
    while len(waiting):
        waiting = waiting[sizes[waiting] <= wanted]
        num_rows = np.cumsum(sizes[waiting])
        num_taken = int(np.searchsorted(num_rows, wanted, side="right"))
        taken.append(waiting[:num_taken])
        wanted -= int(sizes[waiting[:num_taken]].sum())
        waiting = waiting[num_taken:]
    return np.concatenate(taken)
