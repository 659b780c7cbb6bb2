"""What storage refuses before anything has started is the user's to mend: exit code 2, not a failed run.

Called by the preflight, the launcher and the commands that only look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from raylora.errors import InputError, StoreError

T = TypeVar("T")


@contextmanager
def before_start() -> Iterator[None]:
    """Tell a store's refusal as wrong input: it is the place that was asked for, and not a run, that failed.

    Raises:
        InputError: In place of any `StoreError` raised inside.
    """
    try:
        yield
    except StoreError as error:
        raise InputError(str(error)) from error


class Checks:
    """Checks that do not need each other: what one refuses keeps none of the others from being made."""

    def __init__(self) -> None:
        self.errors: list[InputError] = []

    def of(self, check: Callable[[], T]) -> T | None:
        """Return what a check finds; where it refuses, note why."""
        try:
            with before_start():
                return check()
        except InputError as error:
            if str(error) not in map(str, self.errors):  # two checks may meet the same thing
                self.errors.append(error)
            return None
