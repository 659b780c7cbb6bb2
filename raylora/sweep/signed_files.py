"""Tune's files, signed: what a search is kept in is unpickled when it goes on, and a pickle can run anything.

In comes the folder of a search; out goes, where there is a key, a file system that Tune writes and reads through. Each
file carries its signature in itself, so that no crash can come between the two; what Tune reads are the bytes that were
checked. That goes for what the driver keeps, for trials' checkpoints and for their errors. Called by `drive.py`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import BufferReader, PythonFile
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileSystemHandler, PyFileSystem
from typing_extensions import override

from raylora.store.signature import KEY_NAME, sealed, unsealed


def tunes_files(folder: str) -> tuple[str, FileSystem | None]:
    """Return where Tune is to keep its files, in its own words: a path and the file system of it.

    Args:
        folder: Path or URI. Where the environment has no key, Tune gets it as it is, and finds the file system itself.
    """
    if not os.environ.get(KEY_NAME):
        return folder, None
    files, path = FileSystem.from_uri(folder)
    if files.type_name == "s3":
        # Arrow copies with as many threads as it has for writes in the background, and each copy waits for its write:
        # all would wait for ever. Ray copies to S3 with one thread, but does not see here that this is S3. What such an
        # object is pickled with is all that it is made of.
        make, (options,) = files.__reduce__()
        files = make({**options, "background_writes": False})
    return path, PyFileSystem(_SignedFiles(files))


@dataclass(frozen=True)
class _SignedFiles(FileSystemHandler):  # type: ignore[misc]  # pyarrow ships no types
    """Signs what is written and checks what is read; all else is as it is without.

    Args:
        files: Where they lie.
    """

    files: FileSystem

    @override
    def open_output_stream(self, path: str, metadata: Mapping[str, str] | None) -> PythonFile:
        return PythonFile(_Signing(self.files, path), mode="w")

    @override
    def open_append_stream(self, path: str, metadata: Mapping[str, str] | None) -> PythonFile:
        # Arrow wants the method there; Tune writes whole files, and a signature is of one.
        raise NotImplementedError(f"{path}: a file that is signed is written whole")

    @override
    def open_input_stream(self, path: str) -> BufferReader:
        with self.files.open_input_stream(path, compression=None) as stream:
            return BufferReader(unsealed(stream.readall(), path))

    @override
    def open_input_file(self, path: str) -> BufferReader:
        return self.open_input_stream(path)

    @override
    def get_type_name(self) -> str:
        return f"signed+{self.files.type_name}"

    @override
    def normalize_path(self, path: str) -> str:
        return str(self.files.normalize_path(path))

    @override
    def get_file_info(self, paths: Sequence[str]) -> list[FileInfo]:
        return list(self.files.get_file_info(paths))

    @override
    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        return list(self.files.get_file_info(selector))

    @override
    def create_dir(self, path: str, recursive: bool) -> None:
        self.files.create_dir(path, recursive=recursive)

    @override
    def delete_dir(self, path: str) -> None:
        self.files.delete_dir(path)

    @override
    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.files.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    @override
    def delete_root_dir_contents(self) -> None:
        self.files.delete_dir_contents("/", accept_root_dir=True)

    @override
    def delete_file(self, path: str) -> None:
        self.files.delete_file(path)

    @override
    def move(self, src: str, dest: str) -> None:
        self.files.move(src, dest)

    @override
    def copy_file(self, src: str, dest: str) -> None:
        self.files.copy_file(src, dest)


class _Signing:
    """A file that is written when it is closed; one that is dropped before was not whole, and is not signed.

    Args:
        files: Where to.
        path: Of the file.
    """

    def __init__(self, files: FileSystem, path: str) -> None:
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
        with self._files.open_output_stream(self._path, compression=None) as stream:
            stream.write(sealed(self._data.getvalue()))
