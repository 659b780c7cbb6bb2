"""Every random choice about rows: a permutation that depends on its key alone.

Enters: a count and a key (seed, purpose, epoch ...). Leaves: a permutation. The key feeds a counter-based generator
whose raw stream NumPy keeps stable over releases, so a run resumed elsewhere or years later sees the same rows.
Called by split, mix and batches.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray


class Purpose(enum.IntEnum):
    """What a permutation is for, so that no two of them are related."""

    SPLIT = 1
    SAMPLE = 2
    ROWS = 3
    BINS = 4
    MISMATCH = 5


def permutation(count: int, purpose: Purpose, *key: int) -> NDArray[np.int64]:
    """Shuffle 0 ... count - 1 by a key.

    Args:
        count: How many.
        purpose: What for.
        key: Numbers from 0 up: the seed first, then epoch, source and the like.

    Returns:
        A permutation, the same on every machine for the same arguments. Shape: [count].
    """
    # The purpose is never 0 and comes last: keys that differ only in zeros at their end would be one to NumPy.
    generator = np.random.Philox(np.random.SeedSequence([*key, int(purpose)]))
    return np.argsort(generator.random_raw(count), kind="stable")
