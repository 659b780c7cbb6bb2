"""A lock under which threads wait, each for something of its own.

A change wakes those whom it concerns and no other: a sweep has a thread that waits for each of its trials, and each of
them would otherwise take the lock at every change to find that there is nothing for it. Used by the desk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Waiters:
    """The lock, which a thread may take again while it holds it, and who waits."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: list[tuple[Callable[[], bool], threading.Condition]] = []

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def wait_for(self, reached: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Let others have the lock, which this thread holds, until something is reached.

        Args:
            reached: What; asked under the lock.
            timeout_s: Longest wait; none where absent.
        """
        waiting = (reached, threading.Condition(self._lock))
        self._waiting.append(waiting)
        try:
            waiting[1].wait_for(reached, timeout_s)
        finally:
            self._waiting.remove(waiting)

    def wake(self) -> None:
        """Wake those whose wait is over; this thread holds the lock."""
        for reached, changed in self._waiting:
            if reached():
                changed.notify()
