"""How a sweep stands, as whoever watches it is told. Made by the launcher from events of the workers. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raylora.store.sweeps import SweepRecord
from raylora.train.start_parts import LOADING, next_part


@dataclass(frozen=True)
class Standing:
    """How a sweep stands.

    Args:
        record: The sweep and its trials so far.
        num_trials: Trials that there will be, repeats counted.
        doing: What goes on, in a few words.
    """

    record: SweepRecord
    num_trials: int
    doing: str

    @property
    def num_over(self) -> int:
        """Trials that have ended."""
        return sum(trial.is_over for trial in self.record.trials)


Listener = Callable[[Standing], None]
"""Told how the sweep stands, whenever that changes."""


def awaited(record: SweepRecord, folder: str) -> SweepRecord:
    """Return a sweep that goes on as it stands before it does: trials that an earlier process left open wait.

    Args:
        record: As that process left it.
        folder: Where it goes on.
    """
    trials = (trial if trial.is_over else trial.model_copy(update={"status": "paused"}) for trial in record.trials)
    return record.model_copy(update={"trials": tuple(trials), "folder": folder})


def next_of_pack(part: str, measures_slots: bool) -> str:
    """Say what the workers of a pack do after a part of their start.

    Args:
        part: Its name, as a ``phase`` event has it.
        measures_slots: Whether they try how many slots are fastest.
    """
    if part in LOADING and measures_slots:
        return "workers measure how many slots are fastest"
    return next_part(part) or "training"
