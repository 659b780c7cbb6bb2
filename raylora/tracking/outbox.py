"""A spool and the thread that empties it: patient while training runs, bounded in time at its end.

In come entries, which are on disk at once where there is room, and a function that delivers them. Delivering an entry
twice must equal delivering it once, since a server's answer can be lost. Knows no MLflow. Called by the tracker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from raylora.errors import StoreError
from raylora.log import get_logger
from raylora.tracking.spool import Entry, Spool

BATCH_ENTRIES = 500
GATHER_S = 1.0
"""Entries wait this long for company: a request for each step would be thousands."""

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
CLOSING_WAIT_S = 1.0
"""Wait between tries at the end of a training, when somebody is watching."""

_log = get_logger(__name__)


class Outbox:
    """Delivers entries in the order they were put, over restarts of the server and of this process.

    Args:
        folder: The spool's; what an earlier process left in it goes first.
        deliver: Sends entries, or raises; repeated with the same entries until it does not.
        what: Names the entries in the log.
        shown: Turns an error into text that may be logged.
        gather_s: How long entries wait for company, in seconds; `GATHER_S` where absent.
    """

    def __init__(
        self,
        folder: Path,
        deliver: Callable[[Sequence[Entry]], None],
        what: str,
        shown: Callable[[Exception], str],
        gather_s: float | None = None,
    ) -> None:
        self.what = what
        self._gather_s = GATHER_S if gather_s is None else gather_s
        self._spool, self._deliver, self._shown = Spool(folder), deliver, shown
        self._wake, self._closing = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=f"raylora-{what}", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Keep an entry on disk, or in memory where that is full, and deliver it soon.

        What finds no place in memory either is logged and counted, since no training ends for it.
        """
        try:
            self._spool.append(entry)
        except StoreError as error:
            _log.error("not tracked: %s", error)
        self._wake.set()

    def pending(self) -> list[Entry]:
        """Entries that are kept and, as far as is known, not delivered."""
        return self._spool.pending()[0]

    def close(self, timeout_s: float) -> int:
        """Deliver what is left and end the thread.

        Args:
            timeout_s: Longest wait in seconds.

        Returns:
            Number of entries on disk that could not be delivered; they stay there.
        """
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return self._spool.close()

    @property
    def num_lost(self) -> int:
        """Entries that no later process will find: of a closed outbox those that are neither delivered nor on disk."""
        return self._spool.num_lost

    def _run(self) -> None:
        while time.monotonic() < self._deadline:
            closing = self._closing.is_set()  # asked first: what was put before the closing is among what is pending
            entries, end = self._spool.pending(BATCH_ENTRIES)
            if entries:
                self._try(entries, end)
            elif closing:
                return
            else:
                self._wake.wait()
                self._wake.clear()
                self._closing.wait(self._gather_s)

    def _try(self, entries: Sequence[Entry], end: int) -> None:
        try:
            self._deliver(entries)
        except Exception as error:  # the edge of this thread: no server's failure may end a training
            self._report(error)
            self._failures += 1
            self._pause()
        else:
            if self._failures:
                _log.info("MLflow takes %s again%s", self.what, "" if self.num_lost else "; nothing was lost")
            self._failures = 0
            self._spool.acknowledge(end)

    def _report(self, error: Exception) -> None:
        if self._failures == 0:
            _log.warning(
                "MLflow does not take %s (%s); training goes on, they are kept in %s and sent again",
                *(self.what, self._shown(error), self._spool.folder),
            )

    def _pause(self) -> None:
        if self._closing.is_set():
            time.sleep(CLOSING_WAIT_S)
        else:
            self._closing.wait(min(FIRST_WAIT_S * 2 ** min(self._failures - 1, 8), LONGEST_WAIT_S))
