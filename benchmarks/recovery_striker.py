"""Strikes a worker of a run at known steps, and notes when what followed: events enter, moments leave.

Called by `recovery_driver.py` with every event of the run, those of `recovery_witness.py` among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from raylora.train.events import Event

FAULTS: dict[str, Callable[[psutil.Process], None]] = {"killed": psutil.Process.kill, "stopped": psutil.Process.suspend}
"""What becomes of a worker, one after the other."""
RANK = 1
"""Which worker: rank 0 tells of the run's steps, and writes its checkpoints."""
STEPS_AFTER = 3
"""Steps from a checkpoint to the next fault, all of them to be done again."""
NOTED = ("doing", "phase", "start")
"""Events of a restart that are moments."""


class Striker:
    """Strikes once for each fault, some steps after a checkpoint, when the run has recovered from the one before.

    Args:
        done: Called when it has recovered from all.
    """

    def __init__(self, done: Callable[[], None]) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._done, self._left = done, list(FAULTS)
        self._fault = ""  # the one that the run has not recovered from
        self._moments: dict[str, float] = {}
        self._pids: list[int] = []
        self._victim: psutil.Process | None = None
        self._saved = self._reached = self._went_on_from = 0

    def hear(self, event: Event) -> None:
        """Take an event of the run."""
        at = float(event.values.get("at", time.time()))
        if event.kind == "checkpoint":
            self._saved = event.step
        self._pids = event.values.get("pids", self._pids)
        if self._fault:
            self._note(event, at)
        elif event.kind == "step" and self._left and 0 < self._saved <= event.step - STEPS_AFTER:
            self._strike(event.step)

    @property
    def missed(self) -> list[str]:
        """Faults that the run has not recovered from."""
        return [fault for fault in FAULTS if fault not in self.found]

    def leave(self) -> None:
        """End a worker that is still stopped: it hears of nobody's end."""
        if self._victim is not None:
            with suppress(psutil.NoSuchProcess):
                self._victim.kill()

    def _strike(self, step: int) -> None:
        self._fault, self._reached, self._saved = self._left.pop(0), step, 0
        self._victim = psutil.Process(self._pids[RANK])
        self._moments = {"fault": time.time()}
        FAULTS[self._fault](self._victim)

    def _note(self, event: Event, at: float) -> None:
        if event.kind in NOTED:
            name = event.values.get("what", event.values.get("name", event.kind))
            self._moments.setdefault(name, at)
        if event.kind == "start":
            self._went_on_from = event.step
        if event.kind == "step" and "start" not in self._moments:  # of the old workers, told late
            self._reached = max(self._reached, event.step)
        elif event.kind == "step":
            self._moments.setdefault("step", at)
            if event.step >= self._reached:
                self._recovered(at)

    def _recovered(self, at: float) -> None:
        steps_again = self._reached - self._went_on_from
        self.found[self._fault] = {"moments": self._moments | {"back": at}, "steps_again": steps_again}
        self._fault = ""
        if not self._left:
            self._done()
