"""A queue on disk: entries are appended by the training, and acknowledged once MLflow has them.

In come JSON objects, out they come in order, after a crash as well. What a full disk does not take waits behind them in
memory. Knows no MLflow. Called by the outbox: it appends from any thread, and its own thread reads and acknowledges.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raylora.log import get_logger
from raylora.store.files import explained

_log = get_logger(__name__)

Entry = dict[str, Any]

BLOCK_BYTES = 1 << 20
MEMORY_ENTRIES = 100_000
"""Most entries that wait in memory for room on the disk; the metrics of as many steps are some 50 MB."""

CLOSED = -1
"""In place of the open file's number, which may be another file's next."""


class Spool:
    """Entries in one folder. Any thread may append; one thread reads and acknowledges.

    Args:
        folder: Made where it is missing; what an earlier process left in it comes first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries, self._acknowledged = folder / "entries.jsonl", folder / "acknowledged"
        self._lock = threading.Lock()
        # Whole lines, behind those of the file: an offset past its end is one among these.
        self._in_memory: deque[bytes] = deque()
        self._is_full = False
        self.num_lost = 0
        """Entries that found no place, and once this is closed those that were in memory alone."""
        with explained(f"cannot keep metrics in {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._entries, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._drop_torn_line()
            self._start = min(self._read_acknowledged(), os.fstat(self._file).st_size)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; it survives the death of this process from here on, unless the disk takes none.

        Raises:
            StoreError: The disk takes none and memory has its part, or this was closed; what was there before is not
                harmed.
        """
        line = json.dumps(entry).encode() + b"\n"
        with self._lock, explained(f"cannot keep metrics in {self.folder}"):
            if self._file == CLOSED:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._in_memory.append(line)
            try:
                self._move_to_disk()
            except OSError as error:
                if len(self._in_memory) > MEMORY_ENTRIES:
                    self._in_memory.pop()
                    self.num_lost += 1
                    raise
                self._say_full(error)

    def pending(self, limit: int | None = None) -> tuple[list[Entry], int]:
        """Return the oldest entries that are not acknowledged, and the offset that acknowledges them.

        Args:
            limit: Most entries to return; all where absent.
        """
        with self._lock:
            return self._pending(limit)

    def acknowledge(self, end: int) -> None:
        """Remember that every entry up to the offset `end` was delivered."""
        partial = self._acknowledged.with_suffix(".partial")
        with self._lock, contextlib.suppress(OSError):  # a full disk: after a crash, entries are sent again
            if self._file == CLOSED:
                return  # the folder may be a later spool's, which has offsets of its own
            self._start = min(end, os.fstat(self._file).st_size)
            in_memory = end - self._start
            while in_memory:
                in_memory -= len(self._in_memory.popleft())
            partial.write_text(str(self._start))
            partial.replace(self._acknowledged)

    def close(self) -> int:
        """Close the file, and delete the folder if nothing is left in it; return the number of entries left there.

        What is in memory gets a last chance. A late reader finds nothing, a late acknowledgement is not noted, and a
        late append raises.
        """
        with self._lock:
            with contextlib.suppress(OSError):  # what the disk still does not take is counted
                self._move_to_disk()
            left = len(self._pending()[0]) - len(self._in_memory)
            self.num_lost += len(self._in_memory)
            self._in_memory.clear()
            os.close(self._file)
            self._file = CLOSED
        if left == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        return left

    def _move_to_disk(self) -> None:
        """Write what is in memory, in order, as far as the disk takes it."""
        while self._in_memory:
            line, end = self._in_memory[0], os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._file, end)  # half a line would swallow the next one
                raise
            self._in_memory.popleft()
        self._is_full = False

    def _say_full(self, error: OSError) -> None:
        """Once, until there is room again."""
        if not self._is_full:
            self._is_full = True
            _log.warning(
                "%s takes no more (%s); entries are kept in memory until it does, or until they are delivered",
                *(self.folder, error.strerror),
            )

    def _pending(self, limit: int | None = None) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        end = self._start
        for line in itertools.islice(self._whole_lines(), limit):
            end += len(line)
            try:
                entries.append(json.loads(line))
            except ValueError:
                _log.error("%s: an entry that ends at byte %d is damaged and left out", self._entries, end)
        return entries, end

    def _whole_lines(self) -> Iterator[bytes]:
        """Lines that are not acknowledged, through the open file: its name may have been deleted."""
        place, rest = self._start, b""
        while self._file != CLOSED and (block := os.pread(self._file, BLOCK_BYTES, place)):
            place += len(block)
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
        yield from self._in_memory

    def _drop_torn_line(self) -> None:
        """Cut off what a crash in the middle of an append left."""
        with self._entries.open("rb") as file:
            os.ftruncate(self._file, sum(len(line) for line in file if line.endswith(b"\n")))

    def _read_acknowledged(self) -> int:
        return int(self._acknowledged.read_text()) if self._acknowledged.exists() else 0
