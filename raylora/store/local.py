"""A folder as a store: one file per key. In come keys and bytes, out come files.

Called through `raylora.store.blob.open_store`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from typing_extensions import override

from raylora.errors import ExistingObjectError, MissingObjectError, StoreError
from raylora.store.contract import Store, checked_key
from raylora.store.files import PARTIAL_SUFFIX, copy, creating, explained, replacing


class FolderStore(Store):
    """Objects as files below one folder, which is made at the first write.

    Args:
        folder: The folder; relative paths are taken from the working directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        super().__init__(str(self.folder))

    @override
    def child(self, prefix: str) -> FolderStore:
        return FolderStore(self._path(prefix))

    @override
    def write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with explained(f"cannot write {path}"), replacing(path) as partial:
            partial.write_bytes(data)

    @override
    def create(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with explained(f"cannot create {path}"):
            try:
                with creating(path) as partial:
                    partial.write_bytes(data)
            except FileExistsError as error:
                if path.is_dir() or not path.parent.is_dir():
                    raise
                with contextlib.suppress(FileNotFoundError):
                    if path.read_bytes() == data:
                        return
                raise ExistingObjectError(f"cannot create {path}: there is one already") from error

    @override
    def read(self, key: str) -> bytes:
        path = self._path(key)
        with explained(f"cannot read {path}"):
            return path.read_bytes()

    @override
    def exists(self, key: str) -> bool:
        path = self._path(key)
        with explained(f"cannot look for {path}"):
            return path.is_file()

    @override
    def version(self, key: str) -> str:
        path = self._path(key)
        with explained(f"cannot look at {path}"):
            about = path.stat()
        return f"{about.st_size}-{about.st_mtime_ns}-{about.st_ino}"

    @override
    def keys(self, prefix: str = "") -> list[str]:
        start = self._path(prefix) if prefix else self.folder
        with explained(f"cannot list {start}"):
            walked = os.walk(start, onerror=_refuse_unless_passed_over)
            paths = [Path(folder, name) for folder, _, names in walked for name in names]
            files = [path for path in paths if path.is_file() and not path.name.endswith(PARTIAL_SUFFIX)]
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    @override
    def delete(self, prefix: str) -> None:
        path = self._path(prefix)
        with explained(f"cannot delete {path}"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @override
    def upload(self, local: Path, key: str) -> None:
        path = self._path(key)
        with explained(f"cannot copy {local} to {path}"), replacing(path) as partial:
            copy(local, partial)

    @override
    def download(self, key: str, local: Path) -> None:
        path = self._path(key)
        with explained(f"cannot copy {path} to {local}"), replacing(local) as partial:
            copy(path, partial)

    @override
    def check_there(self) -> None:
        with explained(f"cannot look at {self.folder}"):
            is_there = self.folder.is_dir()
        if not is_there:
            raise MissingObjectError(f"{self.uri}: there is no store, no such folder; check the spelling")

    @override
    def check_writable(self) -> None:
        """As in `Store`; folders that had to be made for the test are removed again."""
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        try:
            super().check_writable()
        except MissingObjectError as error:
            raise StoreError(f"{self.uri} keeps no files ({error}); name another storage.uri") from error
        finally:
            for folder in missing:
                with contextlib.suppress(OSError):  # never made, or already in use by somebody else
                    folder.rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / checked_key(key)


def _refuse_unless_passed_over(error: OSError) -> None:
    """Raise what keeps a folder from being listed, unless it is gone since, a file, or closed to this user."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
        raise error
