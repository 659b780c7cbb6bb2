"""A pattern that somebody wrote, against many names: whatever it is, the answer comes in bounded time.

Enters: a regular expression and names. Leaves: the names it matches. Called by whoever looks for layers or files, and
by the rules of a run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from re import _parser  # type: ignore[attr-defined]  # private; its public name, sre_parse, is deprecated
from typing import Any

import regex

MAX_CHARS = 1_000
"""Of a pattern. What is meant for the names of layers or files is shorter."""

MAX_PARTS = 10_000
"""Of a pattern whose repeats are written out: `regex` writes out as many of each as there must be, and one more."""

REPEATS = (_parser.MAX_REPEAT, _parser.MIN_REPEAT, _parser.POSSESSIVE_REPEAT)


def compiled(pattern: str) -> regex.Pattern[str]:
    """Return a pattern that is ready to match, in bounded time and memory.

    Raises:
        regex.error: It is no regular expression, or too large for one.
    """
    if len(pattern) > MAX_CHARS:
        raise regex.error(f"it has {len(pattern):,} characters, allowed are {MAX_CHARS:,}")
    try:
        num_parts = _num_parts(_parser.parse(pattern))
        if num_parts > MAX_PARTS:
            raise regex.error(f"written out, its repeats make more than {MAX_PARTS:,} parts; nest fewer, or lower them")
        # Not Python's own engine: that one cannot be stopped, and a pattern comes from whoever wrote the spec.
        return regex.compile(pattern)
    except (re.error, OverflowError) as error:
        raise regex.error(str(error)) from error
    except RecursionError:
        raise regex.error("its groups are nested too deep") from None


def matching(pattern: str, names: Iterable[str], timeout_s: float) -> list[str]:
    """Return the names that a pattern matches from their first character to their last, in their order.

    Args:
        pattern: A regular expression.
        names: What it may match.
        timeout_s: Longest search over all of them, in seconds.

    Raises:
        regex.error: It is no regular expression, or too large for one.
        TimeoutError: The search takes longer.
    """
    whole = compiled(pattern)
    deadline_s = time.monotonic() + timeout_s
    found = []
    for name in names:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:  # to `regex` a time below zero is no limit at all
            raise TimeoutError("regex timed out")
        if whole.fullmatch(name, timeout=left_s):
            found.append(name)
    return found


def _num_parts(parsed: Any) -> int:
    """Parts of what Python's parser made of a pattern, repeats written out."""
    num_parts = 0
    for kind, about in parsed.data:
        inside = sum(map(_num_parts, parsed_in(about)))
        num_parts += (about[0] + 1) * inside if kind in REPEATS else 1 + inside
    return num_parts


def parsed_in(about: Any) -> Iterator[Any]:
    """Parts of a part of what Python's parser made of a pattern.

    Args:
        about: What stands beside the part's kind.
    """
    if isinstance(about, _parser.SubPattern):
        yield about
    elif isinstance(about, list | tuple):
        for each in about:
            yield from parsed_in(each)
