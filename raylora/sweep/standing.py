"""How a sweep stands, as whoever watches it is told. Made by the launcher from events of the workers. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raylora.store.sweeps import SweepRecord

_NEXT = {
    "start workers": "workers import torch and transformers",
    "import": "workers wait for the driver's checks",
    "wait for the driver's checks": "workers look at the base",
    "describe": "workers load, quantize and place the base",
    "load, quantize and place": "workers measure how many slots are fastest",
}
"""What workers do after each part of their start."""


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
        return sum(trial.status not in ("running", "paused") for trial in self.record.trials)


Listener = Callable[[Standing], None]
"""Told how the sweep stands, whenever that changes."""


def next_part(part: str) -> str:
    """Say what workers do after a part of their start.

    Args:
        part: Its name, as a ``phase`` event has it.
    """
    return _NEXT.get(part, "training")
