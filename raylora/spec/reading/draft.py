"""A configuration while it is read: its values so far, where each was written, what to tell the user.

`load.py` makes one from a file, `overrides.py` and `aliases.py` change it, `check.py` makes it a RunSpec.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from raylora.errors import Problem
from raylora.spec.text.yaml_text import KeyPath, dotted


@dataclass(frozen=True)
class Origin:
    """Where a value was written.

    Args:
        written: Dotted path as the user wrote it.
        line: Line of the file, from 1; None for an override.
    """

    written: str
    line: int | None


@dataclass
class Draft:
    """Values that still may be wrong, with their origins."""

    values: dict[str, Any]
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: set[KeyPath] = field(default_factory=set)

    def origin(self, path: KeyPath) -> Origin | None:
        """Return where a path was written, or else what holds it, or else what it holds."""
        for length in range(len(path), 0, -1):
            if (origin := self.origins.get(path[:length])) is not None:
                return origin
        return next((origin for known, origin in self.origins.items() if known[: len(path)] == path), None)

    def refuse(self, path: KeyPath, message: str) -> None:
        """Note a problem at a path, with its line, or that it came from `--set`.

        Args:
            path: Keys from the top to the value.
            message: What is wrong, got, allowed, and what to do.
        """
        self.refused.add(path)
        origin = self.origins.get(path)
        if origin is not None and origin.written != dotted(path):
            message = f"written {origin.written}: {message}"
        nearest = self.origin(path)
        if nearest is not None and nearest.line is None:
            message = f"from --set: {message}"
        self.problems.append(Problem(dotted(path), message, nearest.line if nearest else None))

    def note(self, path: KeyPath, message: str) -> None:
        """Tell the user something about a path that is no problem.

        Args:
            path: Keys from the top to the value.
            message: What was understood.
        """
        origin = self.origin(path)
        where = "" if origin is None else f"line {origin.line}: " if origin.line is not None else "--set: "
        self.notes.append(where + message)

    def forget(self, path: KeyPath) -> None:
        """Take a value and all beneath it out, where it is there."""
        parent = self.value(path[:-1])
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
        for known in [each for each in self.origins if each[: len(path)] == path]:
            del self.origins[known]

    def value(self, path: KeyPath) -> Any:
        """Return what stands at a path, or None."""
        here: Any = self.values
        for part in path:
            if isinstance(here, dict):
                here = here.get(part)
            elif isinstance(here, list) and isinstance(part, int) and 0 <= part < len(here):
                here = here[part]
            else:
                return None
        return here

    def containers(self) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        """Yield the mappings whose keys other tools spell differently: the run's own and its datasets'."""
        yield (), self.values
        for key in ("datasets", "test_datasets"):
            entries = self.values.get(key)
            for index, entry in enumerate(entries if isinstance(entries, list) else ()):
                if isinstance(entry, dict):
                    yield (key, index), entry
