"""Tune's files: whole, signed, since what is unpickled can run anything, and on S3 asked for until S3 answers.

In comes the folder of a search; out goes a file system that Tune writes and reads through. Tune itself empties a file
before it writes it again: where the disk is full, or the driver is killed, neither the old one nor the new would be
there. Here a file is replaced when the new one is whole. Each carries its signature in itself, so that no crash comes
between the two; what Tune reads are the bytes that were checked. That goes for what the driver keeps, for trials'
checkpoints and for their errors. Called by `drive.py`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from pyarrow import BufferReader, PythonFile
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileSystemHandler, PyFileSystem
from typing_extensions import override

from raylora.errors import UnusableStoreError
from raylora.store.files import PARTIAL_SUFFIX, reason, replacing
from raylora.store.retry import PATIENCE_S, retrying
from raylora.store.signature import sealed, unsealed

T = TypeVar("T")

PASSING = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING|REQUEST_TIMEOUT)"
    r"|HTTP status (429|5\d\d)"
)
"""What Arrow says where the same request may succeed later; its errors bear no other mark. It gives up in a second."""


_unwritten: SimpleQueue[str] = SimpleQueue()
"""Files of this process that could not be written, and why."""


def unwritten() -> list[str]:
    """Take what this process could not write since it was last asked, and why: Arrow, which copies, passes it over."""
    found = []
    while not _unwritten.empty():
        found.append(_unwritten.get())
    return found


def check_written() -> None:
    """Find out that each file was written since the last call.

    Raises:
        UnusableStoreError: One was not.
    """
    if failures := unwritten():
        raise unkept(failures[0])


def unkept(why: str) -> UnusableStoreError:
    """Return what ends a search whose files cannot be kept or read.

    Args:
        why: Which, and why.
    """
    return UnusableStoreError(f"what Ray Tune keeps of trials: {why}; `raylora resume` goes on with the sweep")


def tunes_files(folder: str) -> tuple[str, FileSystem]:
    """Return where Tune is to keep its files, in its own words: a path and the file system of it.

    Args:
        folder: Absolute path, or URI.
    """
    files, path = FileSystem.from_uri(folder)
    if files.type_name == "s3":
        # Arrow copies with as many threads as it has for writes in the background, and each copy waits for its write:
        # all would wait for ever. Ray copies to S3 with one thread, but does not see here that this is S3. What such an
        # object is pickled with is all that it is made of.
        make, (options,) = files.__reduce__()
        files = make({**options, "background_writes": False})
    return path, PyFileSystem(_WholeFiles(files))


@dataclass(frozen=True)
class _WholeFiles(FileSystemHandler):  # type: ignore[misc]  # pyarrow ships no types
    """Signs what is written and checks what is read, each file as a whole; all else is as it is with Arrow alone.

    Args:
        files: Where they lie.
    """

    files: FileSystem

    @override
    def open_output_stream(self, path: str, metadata: Mapping[str, str] | None) -> PythonFile:
        return PythonFile(_Writing(self, path), mode="w")

    @override
    def open_append_stream(self, path: str, metadata: Mapping[str, str] | None) -> PythonFile:
        # Arrow wants the method there; Tune writes whole files, and a signature is of one.
        raise NotImplementedError(f"{path}: a file that is signed is written whole")

    @override
    def open_input_stream(self, path: str) -> BufferReader:
        return BufferReader(unsealed(self._patiently("read", path, self._read), path))

    @override
    def open_input_file(self, path: str) -> BufferReader:
        return self.open_input_stream(path)

    @override
    def get_type_name(self) -> str:
        return f"whole+{self.files.type_name}"

    @override
    def normalize_path(self, path: str) -> str:
        return str(self.files.normalize_path(path))

    @override
    def get_file_info(self, paths: Sequence[str]) -> list[FileInfo]:
        return list(self._patiently("look for", list(paths), self.files.get_file_info))

    @override
    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        found = self._patiently("list", selector, self.files.get_file_info)
        return [info for info in found if not info.path.endswith(PARTIAL_SUFFIX)]  # a driver was killed there

    @override
    def create_dir(self, path: str, recursive: bool) -> None:
        with _noted(f"cannot make {path}"):
            self._patiently("make", path, lambda path: self.files.create_dir(path, recursive=recursive))

    @override
    def delete_dir(self, path: str) -> None:
        self._patiently("delete", path, self.files.delete_dir)

    @override
    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._patiently("empty", path, lambda path: self.files.delete_dir_contents(path, missing_dir_ok=missing_dir_ok))

    @override
    def delete_root_dir_contents(self) -> None:
        self.files.delete_dir_contents("/", accept_root_dir=True)

    @override
    def delete_file(self, path: str) -> None:
        self._patiently("delete", path, self.files.delete_file)

    @override
    def move(self, src: str, dest: str) -> None:
        self.files.move(src, dest)

    @override
    def copy_file(self, src: str, dest: str) -> None:
        self._patiently("copy", src, lambda src: self.files.copy_file(src, dest))

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file, signed where there is a key; what was there stays where that fails.

        Args:
            path: Of the file.
            data: Its content.
        """

        def write(path: str) -> None:
            if self.files.type_name == "local":
                with replacing(Path(path)) as partial:
                    partial.write_bytes(sealed(data))
                return
            with self.files.open_output_stream(path, compression=None) as stream:
                stream.write(sealed(data))

        self._patiently("write", path, write)

    def _read(self, path: str) -> bytes:
        with self.files.open_input_stream(path, compression=None) as stream:
            return bytes(stream.readall())

    def _patiently(self, verb: str, what: Any, action: Callable[[Any], T]) -> T:
        where = what.base_dir if isinstance(what, FileSelector) else what
        return retrying(
            lambda: action(what), what=f"cannot {verb} {where}", is_transient=_is_passing, patience_s=PATIENCE_S
        )


def _is_passing(error: Exception) -> bool:
    return isinstance(error, OSError) and PASSING.search(str(error)) is not None


@contextmanager
def _noted(what: str) -> Iterator[None]:
    """Keep a refusal for `unwritten`."""
    try:
        yield
    except OSError as error:
        _unwritten.put(f"{what}: {reason(error)}")
        raise


class _Writing:
    """A file that is written when it is closed; one that is dropped before was not whole, and is not written.

    Args:
        files: Where to.
        path: Of the file.
    """

    def __init__(self, files: _WholeFiles, path: str) -> None:
        self._files, self._path, self._data = files, path, io.BytesIO()
        self.closed = False

    def write(self, data: Any) -> int:
        return self._data.write(data)

    def tell(self) -> int:
        return self._data.tell()

    def flush(self) -> None:
        """Nothing is written before all of it is there."""

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        with _noted(f"cannot write {self._path}"):
            self._files.write(self._path, self._data.getvalue())
