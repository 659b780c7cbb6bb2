"""A store whose power is cut at one of the changes it is asked for."""

from __future__ import annotations

from pathlib import Path

from raylora.errors import StoreError
from raylora.store.local import FolderStore


class PowerCut(StoreError):
    pass


class FailingStore(FolderStore):
    """A folder that fails at one of the changes it is asked for, and at all after it."""

    def __init__(self, folder: Path, changes: int) -> None:
        super().__init__(folder)
        self.changes_left = changes

    def _change(self) -> None:
        self.changes_left -= 1
        if self.changes_left < 0:
            raise PowerCut

    def write(self, key: str, data: bytes) -> None:
        self._change()
        super().write(key, data)

    def create(self, key: str, data: bytes) -> None:
        self._change()
        super().create(key, data)

    def delete(self, prefix: str) -> None:
        self._change()
        super().delete(prefix)
