"""Seeds that are the same on every machine, in every process and at every resume."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: object) -> int:
    """A seed from what it is for.

    Args:
        parts: Numbers and texts, such as a purpose, the run's seed and a step.

    Returns:
        0 to 2**63 - 1.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
