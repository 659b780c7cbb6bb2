"""What a rule between fields is: its words, its registration and how a broken one is told.

`run.py` holds a run's rules and `sweeps/rules.py` a sweep's; the reference lists their sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from raylora.errors import Problem
from raylora.spec.fields.part import Part

Fields = TypeVar("Fields", bound=Part)


@dataclass(frozen=True)
class Rule(Generic[Fields]):
    """One rule.

    Args:
        fields: Dotted paths of the fields it reads; a broken rule is reported at the first.
        check: Says what is wrong and what to do next, or None where the fields fit.
    """

    fields: tuple[str, ...]
    check: Callable[[Fields], str | None]

    @property
    def sentence(self) -> str:
        """What the rule asks for, as the reference says it."""
        return (self.check.__doc__ or "").strip()


Check = Callable[[Fields], str | None]


def registrar(rules: list[Rule[Fields]]) -> Callable[..., Callable[[Check[Fields]], Check[Fields]]]:
    """Return the decorator that registers a check of the named fields; its docstring is its sentence in the reference."""

    def rule(*fields: str) -> Callable[[Check[Fields]], Check[Fields]]:
        def register(check: Check[Fields]) -> Check[Fields]:
            rules.append(Rule(fields, check))
            return check

        return register

    return rule


def broken(rules: Iterable[Rule[Fields]], values: Fields, unknown: frozenset[str] = frozenset()) -> Iterator[Problem]:
    """Ask every rule whose fields are known.

    Args:
        rules: The rules.
        values: The fields.
        unknown: Dotted paths whose values are stand-ins, since what was written is wrong by itself.
    """
    for each in rules:
        if unknown.isdisjoint(each.fields) and (message := each.check(values)) is not None:
            yield Problem(each.fields[0], message)
