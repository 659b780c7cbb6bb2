"""Whoever was lost goes on: runs and sweeps whose driver is gone are resumed, each by a command of its own.

Enters: the store of all runs, and what begins to resume one by its name. Leaves: processes, which outlive the
supervisor. The lease in the store decides who may go on (`store/lease.py`), so that two supervisors, or one and a
person, do no harm. What somebody stopped, or what failed, is nobody's to resume but theirs. Called by the command
``supervise``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from subprocess import Popen

from raylora.errors import StoreError
from raylora.log import get_logger
from raylora.store.contract import Store
from raylora.store.runs import list_runs, run_status_now
from raylora.store.sweeps import list_sweeps, sweep_status_now

MAX_IN_VAIN = 3
"""Resumed in a row so often without much coming of it, one is left to people."""

IN_VAIN_S = 600.0
"""A command that ended within so many seconds, and left its run lost, came to nothing."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Resumed:
    """A run or sweep that this supervisor had go on.

    Args:
        process: The command that does.
        begun: When, by the monotonic clock, in seconds.
    """

    process: Popen[bytes]
    begun: float = field(default_factory=time.monotonic)


class Supervisor:
    """Goes on with the runs and sweeps of a store whose driver is gone.

    Args:
        store: The store of all runs.
        resume: Begins to resume one by its name, in a process that outlives this one.
    """

    def __init__(self, store: Store, resume: Callable[[str], Popen[bytes]]) -> None:
        self._store, self._resume = store, resume
        self._at_work: dict[str, Resumed] = {}
        self._in_vain: Counter[str] = Counter()

    @property
    def at_work(self) -> dict[str, int]:
        """Process ids of the commands that go on with something, by name."""
        self._see_ends()
        return {name: resumed.process.pid for name, resumed in self._at_work.items()}

    def look(self) -> None:
        """Resume whatever is lost by now; a store that does not answer is asked again at the next look."""
        self._see_ends()
        try:
            for name in _lost(self._store):
                if name not in self._at_work and self._in_vain[name] < MAX_IN_VAIN:
                    self._go_on(name)
        except StoreError as failure:
            _log.warning("it is not known what is lost: %s", failure)

    def _go_on(self, name: str) -> None:
        self._at_work[name] = resumed = Resumed(self._resume(name))
        _log.info("%s: its driver is gone; process %d goes on with it", name, resumed.process.pid)

    def _see_ends(self) -> None:
        for name, resumed in list(self._at_work.items()):
            if (code := resumed.process.poll()) is not None:
                del self._at_work[name]
                self._tell_end(name, code, time.monotonic() - resumed.begun)

    def _tell_end(self, name: str, code: int, lived_s: float) -> None:
        if code == 0:
            _log.info("%s: finished", name)
            return
        self._in_vain[name] = self._in_vain[name] + 1 if lived_s < IN_VAIN_S else 0
        _log.warning("%s: ended with code %d", name, code)
        if self._in_vain[name] == MAX_IN_VAIN:
            _log.error("%s: resumed %d times in vain; find out why, then: raylora resume %s", name, MAX_IN_VAIN, name)


def _lost(store: Store) -> Iterator[str]:
    for run in list_runs(store):
        if run_status_now(store, run) == "lost":
            yield run.run_id
    for sweep in list_sweeps(store):
        if sweep_status_now(store, sweep) == "lost":
            yield sweep.sweep_id
