"""The rows of one epoch, mixed from several sources by weight.

Enters: each row's source and each source's weight. Leaves: positions in the epoch's order. Called by batches, and by
prepare, which refuses weights that leave nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raylora.data.order import Purpose, permutation
from raylora.errors import DataError


def epoch_rows(source_of: NDArray[np.int64], weights: Sequence[float], seed: int, epoch: int) -> NDArray[np.int64]:
    """Choose and shuffle the rows of an epoch.

    Args:
        source_of: Index of each row's source. Shape: [rows].
        weights: How often an epoch shows each source's rows. The whole part shows every row as often; the rest
            shows that part of the rows once more, others in each epoch until all had their turn.
        seed: The run's seed.
        epoch: From 0.

    Returns:
        Positions in order. As many in every epoch.
    """
    shown = [
        _shown(np.flatnonzero(source_of == source), weight, (seed, source), epoch)
        for source, weight in enumerate(weights)
    ]
    rows = np.concatenate(shown)
    return rows[permutation(len(rows), Purpose.ROWS, seed, epoch)]


def check_weights(source_of: NDArray[np.int64], weights: Sequence[float]) -> None:
    """Find out that an epoch has rows.

    Args:
        source_of: As of `epoch_rows`.
        weights: As of `epoch_rows`.

    Raises:
        DataError: The weights are so small that they leave no row.
    """
    sizes = np.bincount(source_of, minlength=len(weights)).tolist()
    shares = [(size, *_share(size, weight)) for size, weight in zip(sizes, weights, strict=True)]
    if not any(copies * size + num_more for size, copies, num_more in shares):
        raise DataError(f"datasets: weights {list(weights)} of {len(source_of):,} rows leave none; raise a weight")


def _share(num_rows: int, weight: float) -> tuple[int, int]:
    """How often an epoch shows every row of a source, and how many of them once more."""
    copies = int(weight)
    return copies, round((weight - copies) * num_rows)


def _shown(rows: NDArray[np.int64], weight: float, key: tuple[int, int], epoch: int) -> NDArray[np.int64]:
    copies, num_more = _share(len(rows), weight)
    turn = permutation(len(rows), Purpose.SAMPLE, *key)
    more = turn.take(np.arange(epoch * num_more, (epoch + 1) * num_more), mode="wrap") if num_more else turn[:0]
    return np.concatenate([np.tile(rows, copies), rows[more]])
