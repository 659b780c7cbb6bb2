"""What a run told last. Its checkpoints carry it, so that whoever goes on from one can tell what nobody has heard.

A pack saves without waiting for its driver, which may be waiting for the save: where both are killed at once, the steps
before a save that is whole were told to nobody, and are not done again. Kept by a member.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from raylora.train.events import Event

TOLD = "told"
"""Its name in a checkpoint's state."""

MOST = 256
"""Events of numbers kept; a driver listens twice a second."""


class Tail:
    """The last steps and evaluations of one run that were told of."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST)

    def noted(self, event: Event) -> Event:
        """The event, which is kept where it is one of numbers."""
        if event.kind in ("step", "eval"):
            self._events.append(event)
        return event

    @property
    def state(self) -> dict[str, Any]:
        """For a checkpoint: all of it, under `TOLD`."""
        return {TOLD: [[event.kind, event.step, dict(event.values)] for event in self._events]}

    def load(self, state: Mapping[str, Any]) -> list[Event]:
        """Become what a checkpoint of the same run carries; nothing where it is of before there were tails.

        Args:
            state: Of the checkpoint.

        Returns:
            What it holds, oldest first.
        """
        self._events.clear()
        self._events.extend(Event(kind, step, values) for kind, step, values in state.get(TOLD, ()))
        return list(self._events)
