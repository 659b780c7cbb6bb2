"""A pattern that somebody wrote, against many names: whatever it is, the answer comes in bounded time.

Enters: a regular expression and names. Leaves: the names it matches. Called by whoever looks for layers or files.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import regex


def matching(pattern: str, names: Iterable[str], timeout_s: float) -> list[str]:
    """Return the names that a pattern matches from their first character to their last, in their order.

    Args:
        pattern: A regular expression.
        names: What it may match.
        timeout_s: Longest search over all of them, in seconds.

    Raises:
        regex.error: It is no regular expression.
        TimeoutError: The search takes longer.
    """
    # Not Python's own engine: that one cannot be stopped, and a pattern comes from whoever wrote the spec.
    compiled = regex.compile(pattern)
    deadline_s = time.monotonic() + timeout_s
    found = []
    for name in names:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:  # to `regex` a time below zero is no limit at all
            raise TimeoutError("regex timed out")
        if compiled.fullmatch(name, timeout=left_s):
            found.append(name)
    return found
