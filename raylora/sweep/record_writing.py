"""When a sweep's record is written: where something changed, and never for a large part of the driver's time.

What writes the record enters. Called by the sweep's books.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from raylora.errors import StoreError
from raylora.log import get_logger

WRITE_S = 1.0
"""The record is written at most this often."""

WRITE_SHARE = 0.05
"""Nor does writing take more than this part of the driver's time."""

log = get_logger(__name__)


class RecordWriting:
    """Writes a record as it changes.

    Args:
        write: Writes all of it as it stands.
    """

    def __init__(self, write: Callable[[], object]) -> None:
        self._write = write
        self._is_changed, self._due, self._is_failing = False, 0.0, False

    def changed(self) -> None:
        """Note a change; it is written now or later."""
        self._is_changed = True
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write where something changed and the last time is long enough ago."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write where something changed; a store that is away for a while loses nothing, as all is written again."""
        if not self._is_changed:
            return
        began = time.monotonic()
        try:
            self._write()
        except StoreError as error:
            if not self._is_failing:
                log.warning("the sweep's record cannot be written: %s; it is tried again", error)
            self._is_failing = True
        else:
            self._is_changed, self._is_failing = False, False
        ended = time.monotonic()
        self._due = ended + max(WRITE_S, (ended - began) / WRITE_SHARE)
