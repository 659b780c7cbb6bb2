"""Rows are put into bins of one length, so that little of a batch is padding (the specification's `sample_packing`).

Enters: rows in the epoch's order and their lengths. Leaves: bins of rows. Called by batches.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Rows that are binned together: enough to fill bins well, few enough that the epoch's order stays random.
_WINDOW_ROWS = 8192


@dataclass(frozen=True)
class Bins:
    """Groups of rows, each to be one line of a batch.

    Args:
        rows: The rows of all bins, bin after bin. Shape: [rows].
        starts: Where each bin starts in ``rows``, and at last their number. Shape: [bins + 1].
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> tuple[int, ...]:
        return tuple(self.rows[self.starts[index] : self.starts[index + 1]].tolist())

    def lengths(self, row_lengths: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
        """Tokens in each bin from the first to before the last. Shape: [bins].

        Args:
            row_lengths: Tokens of each row, by position.
            first: Index of the first bin.
            last: Index after the last bin; above `first`.
        """
        rows = self.rows[self.starts[first] : self.starts[last]]
        return np.add.reduceat(row_lengths[rows], self.starts[first:last] - self.starts[first])

    def take(self, order: NDArray[np.int64]) -> Bins:
        """The same bins in another order."""
        return _bins([self.rows[self.starts[index] : self.starts[index + 1]] for index in order])


def single_bins(rows: NDArray[np.int64]) -> Bins:
    """Each row alone: no binning."""
    return Bins(rows, np.arange(len(rows) + 1))


def fill_bins(rows: NDArray[np.int64], lengths: NDArray[np.int64], capacity: int) -> Bins:
    """Put every row into one bin, by best fit decreasing within windows of the order.

    Args:
        rows: Positions in the epoch's order. Shape: [rows].
        lengths: Tokens of each position; none is above the capacity.
        capacity: Tokens that a bin holds.

    Returns:
        Bins in the order of the windows; within a window the fullest rows come first, so shuffle them.

    Source:
        D. S. Johnson, "Near-optimal bin packing algorithms", MIT, 1973 (best fit decreasing).
    """
    windows = (rows[start : start + _WINDOW_ROWS] for start in range(0, len(rows), _WINDOW_ROWS))
    return _bins([filled for window in windows for filled in _best_fit(window, lengths[window], capacity)])


def _best_fit(rows: NDArray[np.int64], lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    filled: list[list[int]] = []
    # The open bins, by the room they have left: the first with enough is the best fit.
    room: list[tuple[int, int]] = []
    for index in np.argsort(-lengths, kind="stable"):
        row, length = int(rows[index]), int(lengths[index])
        best = bisect_left(room, (length, -1))
        if best == len(room):
            left, place = capacity, len(filled)
            filled.append([])
        else:
            left, place = room.pop(best)
        filled[place].append(row)
        left -= length
        room.insert(bisect_left(room, (left, place)), (left, place))
    return filled


def _bins(bins: Sequence[Sequence[int] | NDArray[np.int64]]) -> Bins:
    starts = np.cumsum([0, *map(len, bins)])
    rows = np.concatenate(bins).astype(np.int64) if bins else np.empty(0, dtype=np.int64)
    return Bins(rows, starts)
