"""A run's checkpoints written while it trains on: training waits for the copy to the host's memory, not for the store.

Checkpoints enter, their URIs leave. One of a run is on its way at a time, and few of a process, so that training waits
where it asks for more before the store has taken them; a store that fails is met when the next is due, or
when somebody waits. Called by a member.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from raylora.store.checkpoint import Checkpoint
from raylora.train.ranks import Ranks

AT_ONCE = 8
"""Checkpoints of a process's runs on their way together; each holds an adapter and its moments in the host's memory."""

_room = threading.BoundedSemaphore(AT_ONCE)


class Writing:
    """The checkpoints of one run; what the ranks that share the run all call is collective.

    Args:
        ranks: Those that share the run; the first of them writes.
        write: Writes a checkpoint, and returns where.
    """

    def __init__(self, ranks: Ranks, write: Callable[[Checkpoint], str]) -> None:
        self._ranks, self._write = ranks, write
        self._is_pending = False
        self._future: Future[str] = Future()
        self.uri = ""

    def begin(self, take: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint beside whatever comes next; collective.

        Args:
            take: Copies this moment into host memory, once there is room for it; collective.

        Raises:
            StoreError: The one before could not be written; on every rank.
        """
        self.settle()
        self._future = Future()
        if self._ranks.rank == 0:
            _room.acquire()
            try:
                threading.Thread(target=self._run, args=(take(), self._future), name="checkpoint").start()
            except BaseException:
                _room.release()
                raise
        else:
            take()
        self._is_pending = True

    def settle(self) -> None:
        """Wait for the checkpoint that is on its way, if there is one; collective.

        Raises:
            StoreError: It could not be written; on every rank.
        """
        if not self._is_pending:
            return
        self._is_pending = False
        self.uri = self._ranks.store(self._future.result)

    def end(self) -> None:
        """Wait as `settle` does, on this rank alone and whatever comes of it: nobody needs the checkpoint any more."""
        if self._is_pending and self._ranks.rank == 0:
            self._future.exception()
        self._is_pending = False

    def _run(self, checkpoint: Checkpoint, future: Future[str]) -> None:
        try:
            try:
                uri = self._write(checkpoint)
            finally:
                _room.release()
            future.set_result(uri)
        except BaseException as error:  # raised again by whoever waits
            future.set_exception(error)
