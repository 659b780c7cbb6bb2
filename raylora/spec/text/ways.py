"""How long Python's own engine may take over a pattern: it cannot be stopped, and other code than ours hands it some.

Enters: a regular expression and how long names are. Leaves: a bound of the ways that the engine may try. Called before
PEFT matches patterns that somebody wrote.
"""

from __future__ import annotations

import re
from math import prod
from re import _constants, _parser  # type: ignore[attr-defined]  # private; public names are deprecated
from typing import Any

from raylora.spec.text.pattern import REPEATS, parsed_in

MAX_WAYS = 1_000_000
"""To match one name: a second, about. Three times `.*` in a name of 60 characters, with four words to choose from."""

CHOICES = (_constants.BRANCH, _constants.GROUPREF_EXISTS)


def has_too_many_ways(pattern: str, length: int) -> bool:
    """Whether matching a name may take long; a text that is no regular expression takes none.

    Args:
        pattern: A regular expression.
        length: Of the longest name, in characters.
    """
    try:
        return _ways(_parser.parse(pattern), length) > MAX_WAYS
    except (re.error, OverflowError):
        return False
    except RecursionError:
        return True


def _ways(parsed: Any, length: int) -> int:
    """Ways of what Python's parser made of a pattern: those of its parts, each with each."""
    return prod(_ways_of(kind, about, length) for kind, about in parsed.data)


def _ways_of(kind: Any, about: Any, length: int) -> int:
    inside = [_ways(part, length) for part in parsed_in(about)]
    if kind in REPEATS:
        least, most, _ = about
        return sum(min(inside[0], MAX_WAYS + 1) ** times for times in range(min(least, length), min(most, length) + 1))
    return sum(inside) if kind in CHOICES else prod(inside)
