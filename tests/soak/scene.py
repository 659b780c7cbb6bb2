"""A run or a sweep under way, as faults see it, and what is told of each: whether it has struck."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from raylora.store.contract import Store
from tests.cluster.command import LONG_S, Ended, Running


@dataclass
class Scene:
    """What there is to strike.

    Args:
        store: With its records and checkpoints.
        chance: Draws which of several is struck, how and for how long.
        running: The command.
        ended: How the commands before ended, of a run or sweep that had to be resumed.
    """

    store: Store
    chance: random.Random
    running: Running
    ended: list[Ended] = field(default_factory=list)
    _is_over: bool = False

    @property
    def said(self) -> str:
        """All that was said of it so far."""
        now = "" if self._is_over else self.running.said
        return "".join(ended.err for ended in self.ended) + now

    @property
    def is_under_way(self) -> bool:
        """Whether the command goes on."""
        return not self._is_over and self.running.process.poll() is None

    def end(self) -> Ended:
        """Wait for the end of the command.

        Raises:
            TimeoutExpired: It hangs, which must not look like one that was killed.
        """
        self.running.process.wait(LONG_S)
        self._is_over = True
        self.ended.append(self.running.end())
        return self.ended[-1]

    def give_up(self) -> None:
        """Leave no process of it behind."""
        if not self._is_over:
            with suppress(ProcessLookupError):
                os.kill(self.running.process.pid, signal.SIGKILL)
            self.running.end()

    def go_on(self, running: Running) -> None:
        """Another command goes on with the run or sweep."""
        self.running, self._is_over = running, False


Struck = Callable[[], int]
"""How often a fault has struck; asked once, when the run or sweep is over, and nothing of the fault is left then."""

Strike = Callable[[Scene], Struck | None]
"""Lets a fault strike; `None` where there is nothing to strike now."""
