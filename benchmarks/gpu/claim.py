"""What is promised of a GPU, and what a result says of it: nothing, as long as none was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NOT_YET = "**not measured on a GPU yet**"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Args:
        words: What is claimed, with its goal.
        found: What a script's results say of it; ``None`` where they say nothing.
    """

    words: str
    found: Callable[[Mapping[str, Any]], str | None]

    def row(self, results: Mapping[str, Any] | None) -> tuple[str, str]:
        """A line of a table.

        Args:
            results: Of the script; ``None`` where there are none.
        """
        said = None if results is None else self.found(results)
        return self.words, NOT_YET if said is None else said


def held(is_held: bool, figure: str) -> str:
    """A figure with its verdict."""
    return f"{figure}: {'held' if is_held else '**missed**'}"


def at_least(figure: float | None, goal: float) -> str | None:
    """How many times as fast, against a goal."""
    return None if figure is None else held(figure >= goal, f"{figure:.2f}")
