"""Whoever was lost goes on: runs and sweeps whose driver or cluster is gone are resumed, each by a command of its own.

Enters: the store of all runs, and what begins to resume one by its name, in its folder. Leaves: processes, few at once,
which outlive the supervisor. The lease in the store decides who may go on (`store/lease.py`), so that two supervisors,
or one and a person, do no harm. What somebody stopped, or what failed by itself, is nobody's to resume but theirs.
Called by the command ``supervise``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
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

Resume = Callable[[str, Path | None], Popen[bytes]]
"""Begins to resume one by its name, in its own folder or, where that is not here, in the supervisor's."""


@dataclass(frozen=True, order=True)
class Lost:
    """A run or sweep that can go on; the oldest is first.

    Args:
        created: When it was first started.
        name: Its name.
        folder: Where its relative paths begin; ``None`` where nobody wrote that down.
    """

    created: datetime
    name: str
    folder: str | None = field(compare=False)


@dataclass(frozen=True)
class Resumed:
    """A run or sweep that this supervisor had go on.

    Args:
        process: The command that does, or did.
        begun: When it was begun, by the monotonic clock, in seconds.
        num_in_vain: How often before that without coming far.
        ended: When the command was seen to have ended, by the same clock; ``None`` before.
    """

    process: Popen[bytes]
    begun: float
    num_in_vain: int = 0
    ended: float | None = None

    @property
    def went_on(self) -> bool:
        """Whether it came far before it ended; what it has waited for room since is none of that."""
        return self.ended is not None and self.ended - self.begun >= LIVED_S


class Supervisor:
    """Goes on with the runs and sweeps of a store whose driver or cluster is gone.

    Args:
        store: The store of all runs.
        resume: Begins to resume one, in a process that outlives this one.
        at_once: Commands of this supervisor at the same time, 1 or more; what else is lost waits.
    """

    def __init__(self, store: Store, resume: Resume, at_once: int) -> None:
        self._store, self._resume, self._at_once = store, resume, at_once
        self._at_work: dict[str, Resumed] = {}
        self._before: dict[str, Resumed] = {}
        self._num_waiting = 0

    @property
    def at_work(self) -> dict[str, int]:
        """Process ids of the commands that go on with something, by name."""
        self._see_ends()
        return {name: resumed.process.pid for name, resumed in self._at_work.items()}

    def look(self) -> None:
        """Resume what is lost by now and has room; what fails of it, such as a silent store, is tried again."""
        self._see_ends()
        lost = self._found()
        for each in lost:
            if not self._is_full and (num_in_vain := self._num_in_vain(each.name)) is not None:
                try:
                    self._go_on(each, num_in_vain)
                except OSError as failure:
                    _log.warning("%s was not resumed: %s", each.name, failure)
        num_waiting = sum(each.name not in self._at_work for each in lost) if self._is_full else 0
        if num_waiting > self._num_waiting:
            _log.info("%d more are lost; each waits for one of the %d that go on", num_waiting, self._at_once)
        self._num_waiting = num_waiting

    @property
    def _is_full(self) -> bool:
        return len(self._at_work) >= self._at_once

    def _found(self) -> list[Lost]:
        """What is lost and not at work here, in order; all that could be read of it."""
        found: list[Lost] = []
        try:
            for each in _lost(self._store):
                if each.name not in self._at_work:
                    found.append(each)
        except (RayloraError, OSError) as failure:
            _log.warning("not all that is lost was resumed: %s", failure)
        return sorted(found)

    def _num_in_vain(self, name: str) -> int | None:
        """How often in a row something was resumed and lost again soon; ``None`` while it is given time for that."""
        before = self._before.get(name)
        if before is None or before.went_on:
            return 0
        num_in_vain, ago_s = before.num_in_vain + 1, time.monotonic() - before.begun
        return num_in_vain if ago_s >= RESTS_S[min(num_in_vain, len(RESTS_S) - 1)] else None

    def _go_on(self, lost: Lost, num_in_vain: int) -> None:
        folder = Path(lost.folder) if lost.folder else None
        if folder is not None and not folder.is_dir():
            _log.warning("%s: its folder %s is not on this machine; relative paths of it begin here", lost.name, folder)
            folder = None
        process = self._resume(lost.name, folder)
        self._at_work[lost.name] = Resumed(process, time.monotonic(), num_in_vain)
        _log.info("%s: its driver or its cluster is gone; process %d goes on with it", lost.name, process.pid)

    def _see_ends(self) -> None:
        for name, resumed in list(self._at_work.items()):
            if (code := resumed.process.poll()) is not None:
                self._before[name] = replace(self._at_work.pop(name), ended=time.monotonic())
                if code:
                    _log.warning("%s: its command ended with code %d; if it is lost, it is resumed again", name, code)
                else:
                    _log.info("%s: finished", name)


def _lost(store: Store) -> Iterator[Lost]:
    for run in list_runs(store):
        if _can_go_on(run, run_status_now(store, run), run_store(store, run.run_id)):
            yield Lost(run.created, run.run_id, run.folder)
    for sweep in list_sweeps(store):
        if _can_go_on(sweep, sweep_status_now(store, sweep), sweep_store(store, sweep.sweep_id)):
            yield Lost(sweep.created, sweep.sweep_id, sweep.folder)


def _can_go_on(record: Record, status: str, place: Store) -> bool:
    """Whether something is lost, or its driver saw its cluster lost, or was gone when only MLflow lacked the rest."""
    if status == "lost":
        return True
    is_cut_off = (status == "failed" and record.lost_cluster) or (status == "finished" and record.result is None)
    return is_cut_off and is_deserted(place)
