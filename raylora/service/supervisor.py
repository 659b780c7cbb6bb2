"""Whoever was lost goes on: runs and sweeps whose driver or cluster is gone are resumed, each by a command of its own.

Enters: the store of all runs, and what begins to resume one by its name. Leaves: processes, which outlive the
supervisor. The lease in the store decides who may go on (`store/lease.py`), so that two supervisors, or one and a
person, do no harm. What somebody stopped, or what failed by itself, is nobody's to resume but theirs.
Called by the command ``supervise``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from subprocess import Popen

from raylora.errors import RayloraError
from raylora.log import get_logger
from raylora.store.contract import Store
from raylora.store.lease import is_deserted
from raylora.store.records import Record
from raylora.store.runs import list_runs, run_status_now, run_store
from raylora.store.sweeps import list_sweeps, sweep_status_now, sweep_store

RESTS_S = (0.0, 30.0, 120.0, 600.0)
"""Between two beginnings of one that is lost again and again: none before the first, the last from then on."""

LIVED_S = 900.0
"""One that is lost later than so many seconds after it was resumed went on, and is resumed at once again."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Resumed:
    """A run or sweep that this supervisor had go on.

    Args:
        process: The command that does, or did.
        begun: When it was begun, by the monotonic clock, in seconds.
        num_in_vain: How often before that without coming far.
    """

    process: Popen[bytes]
    begun: float
    num_in_vain: int = 0


class Supervisor:
    """Goes on with the runs and sweeps of a store whose driver or cluster is gone.

    Args:
        store: The store of all runs.
        resume: Begins to resume one by its name, in a process that outlives this one.
    """

    def __init__(self, store: Store, resume: Callable[[str], Popen[bytes]]) -> None:
        self._store, self._resume = store, resume
        self._at_work: dict[str, Resumed] = {}
        self._before: dict[str, Resumed] = {}

    @property
    def at_work(self) -> dict[str, int]:
        """Process ids of the commands that go on with something, by name."""
        self._see_ends()
        return {name: resumed.process.pid for name, resumed in self._at_work.items()}

    def look(self) -> None:
        """Resume whatever is lost by now; what fails of it, such as a store that does not answer, is tried again."""
        self._see_ends()
        try:
            for name in _lost(self._store):
                if name not in self._at_work:
                    self._go_on(name)
        except (RayloraError, OSError) as failure:
            _log.warning("not all that is lost was resumed: %s", failure)

    def _go_on(self, name: str) -> None:
        before, now, num_in_vain = self._before.get(name), time.monotonic(), 0
        if before is not None and now - before.begun < LIVED_S:
            num_in_vain = before.num_in_vain + 1
            if now - before.begun < RESTS_S[min(num_in_vain, len(RESTS_S) - 1)]:
                return
        self._at_work[name] = resumed = Resumed(self._resume(name), now, num_in_vain)
        _log.info("%s: its driver or its cluster is gone; process %d goes on with it", name, resumed.process.pid)

    def _see_ends(self) -> None:
        for name, resumed in list(self._at_work.items()):
            if (code := resumed.process.poll()) is not None:
                self._before[name] = self._at_work.pop(name)
                if code:
                    _log.warning("%s: its command ended with code %d; if it is lost, it is resumed again", name, code)
                else:
                    _log.info("%s: finished", name)


def _lost(store: Store) -> Iterator[str]:
    for run in list_runs(store):
        if _can_go_on(run, run_status_now(store, run), run_store(store, run.run_id)):
            yield run.run_id
    for sweep in list_sweeps(store):
        if _can_go_on(sweep, sweep_status_now(store, sweep), sweep_store(store, sweep.sweep_id)):
            yield sweep.sweep_id


def _can_go_on(record: Record, status: str, place: Store) -> bool:
    """Whether something is lost, or its driver saw its cluster lost, or was gone when only MLflow lacked the rest."""
    if status == "lost":
        return True
    is_cut_off = (status == "failed" and record.lost_cluster) or (status == "finished" and record.result is None)
    return is_cut_off and is_deserted(place)
