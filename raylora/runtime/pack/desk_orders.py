"""Whether whoever steers has settled: it has taken in all it was told, has given all its orders, and waits.

It says how many orders it gave and how many of them are open, and here they are counted as they arrive: no clock is
involved. Called by the desk, under its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Orders:
    """Orders of whoever steers, from the beginning on."""

    def __init__(self) -> None:
        self._num_begun = 0
        self._said: tuple[int, int] | None = None
        self._unanswered: list[Callable[[], bool]] = []

    def begin(self) -> None:
        """Count one, before it is carried out."""
        self._num_begun += 1

    def say(self, num_orders: int, num_open: int) -> None:
        """Note what it says; what it said earlier may arrive later: more orders, or fewer of them open, are newer.

        Args:
            num_orders: Orders it gave.
            num_open: Those of them whose answer it waits for.
        """
        if self._said is None or (num_orders, -num_open) > (self._said[0], -self._said[1]):
            self._said = (num_orders, num_open)

    @contextmanager
    def unanswered(self, answered: Callable[[], bool]) -> Iterator[None]:
        """Count an order as open while its answer is waited for.

        Args:
            answered: Whether there is one.
        """
        self._unanswered.append(answered)
        try:
            yield
        finally:
            self._unanswered.remove(answered)

    @property
    def settled(self) -> bool:
        """Whether exactly the orders that it gave were begun, and exactly those that it knows to be open wait."""
        return self._said == (self._num_begun, sum(not answered() for answered in self._unanswered))
