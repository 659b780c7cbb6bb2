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


def of_each_case(
    kind: str, side: str, figure: Callable[[float], float] = float
) -> Callable[[Mapping[str, Any]], str | None]:
    """What a script's cases say of one side, one after the other; those that do not have it are left out.

    Args:
        kind: Key of a case's ratios.
        side: Among them.
        figure: Of a median.
    """

    def found(results: Mapping[str, Any]) -> str | None:
        parts = [
            f"{figure(case[kind][side]['median']):.2f} ({name.partition(':')[0]})"
            for name, case in results["cases"].items()
            if side in case.get(kind, {})
        ]
        return ", ".join(parts) or None

    return found


def held(is_held: bool, figure: str) -> str:
    """A figure with its verdict."""
    return f"{figure}: {'held' if is_held else '**missed**'}"


def at_least(figure: float | None, goal: float) -> str | None:
    """How many times as fast, against a goal."""
    return None if figure is None else held(figure >= goal, f"{figure:.2f}")
