"""What a worker's C library does with memory that torch gives back: it keeps it, since the next step takes it again.

By itself glibc hands large blocks back to the system, which zeroes each page anew: up to a sixth of a step on a CPU.
Called by the worker before torch allocates.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

NEVER = -1
LARGEST_BLOCK_BYTES = 32 * 2**20
"""Larger ones are mapped for themselves and given back at once; glibc takes no larger limit."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees; nothing happens where the C library is not glibc.

    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, NEVER)
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK_BYTES)
