"""Ctrl-C and SIGTERM during a run: the first is a wish to save and end, the second an end.

The launcher asks; a job's end by Ray Jobs, Kubernetes or systemd is a SIGTERM and saves like Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """Whether somebody asked a run to end.

    Args:
        asked: Whether they did.
        patient: Whether there is something to save: until then the first signal is an end, too.
    """

    def __init__(self) -> None:
        self.asked = False
        self.patient = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take a signal.

        Args:
            number: Of the signal.
            frame: Where the program stood; both as :func:`signal.signal` passes them.

        Raises:
            KeyboardInterrupt: Nothing waits to be saved, or it was asked for before.
        """
        if self.asked or not self.patient:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Listen to SIGINT and SIGTERM; only the main thread can, elsewhere the wish stays unasked."""
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, wish.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
