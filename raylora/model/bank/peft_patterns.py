"""Patterns in a config of PEFT's, which PEFT matches by Python's engine: refused where that could take for ever.

Called before PEFT's modules are put into a base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from peft import PeftConfig

from raylora.errors import ModelError
from raylora.spec.text.ways import has_too_many_ways

WHOLE = ("target_modules", "exclude_modules", "feedforward_modules")
"""Fields that are a pattern where they are a text."""

OF_EACH = ("modules_to_save", "layers_pattern")
"""Fields of which each text is one."""


def refuse_slow_patterns(config: PeftConfig, names: Iterable[str]) -> None:
    """Refuse a config with a pattern that could take long.

    Args:
        config: Of any type.
        names: Of the base's modules.

    Raises:
        ModelError: Names the field and the pattern.
    """
    length = max(map(len, names), default=0)
    for field, pattern in _patterns(config):
        if has_too_many_ways(pattern, length):
            raise ModelError(
                f"peft: {field}: matching {pattern[:80]!r} could take for ever: it has too many ways to match a name. "
                "Allowed: a repeat within no other, and three or so in all. Write a list of names, or a simpler pattern"
            )


def _patterns(config: PeftConfig) -> Iterator[tuple[str, str]]:
    """Each pattern with its field; keys of `rank_pattern` and its like are some."""
    for field, value in vars(config).items():
        if isinstance(value, str) and field in (*WHOLE, *OF_EACH):
            yield field, value
        elif field in OF_EACH or (field.endswith("_pattern") and isinstance(value, dict)):
            yield from ((field, each) for each in value or () if isinstance(each, str))
