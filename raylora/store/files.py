"""Files that are whole or absent, and what an operating system's refusal means. Called by both stores.

A file is written beside its place, forced to the disk and renamed: a reader, or a machine that dies, meets the old
file or the new one and never a part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raylora.errors import MissingObjectError, StoreError, UnusableStoreError

PARTIAL_SUFFIX = ".partial"
"""Ending of files that are being written; a crash may leave one, and no reader takes it for an object."""

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
"""How file systems without hard links refuse one, such as buckets that are mounted as folders."""

UNUSABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""How a whole file system refuses, whatever file it is asked for."""


OF_THE_SYSTEM = re.compile(r"\(os error (\d+)\)")
"""How what is written in Rust, such as safetensors, names the number of an operating system's refusal."""


def kind_of(error: BaseException) -> type[StoreError]:
    """Return what a refusal to write is to be raised as.

    Args:
        error: The operating system's, or one that tells of it or was raised from it.
    """
    told: BaseException | None = error
    while told is not None:
        said = OF_THE_SYSTEM.search(str(told))
        if (int(said[1]) if said else getattr(told, "errno", None)) in UNUSABLE:
            return UnusableStoreError
        told = told.__cause__
    return StoreError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a path beside `path`; it takes `path`'s place if the block succeeds and vanishes if it fails."""
    with _placed_by(Path.replace, path) as partial:
        yield partial


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Hand out a path beside `path`, as `replacing` does; of several that create one file, one alone succeeds.

    Raises:
        FileExistsError: There is a file.
    """
    with _placed_by(_move_to_free_place, path) as partial:
        yield partial


@contextmanager
def _placed_by(place: Callable[[Path, Path], object], path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        yield partial
        sync(partial)
        place(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def _move_to_free_place(partial: Path, path: Path) -> None:
    try:
        path.hardlink_to(partial)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _copy_to_free_place(partial, path)
    partial.unlink()


def _copy_to_free_place(partial: Path, path: Path) -> None:
    """One alone still succeeds; a crash now may leave a part, and a refusal leaves none."""
    file = path.open("xb")
    try:
        with file:
            file.write(partial.read_bytes())
        sync(path)
    except BaseException:
        path.unlink()
        raise


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do it for folders; that loses nothing that they had promised.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def copy(source: Path, target: Path) -> None:
    """Copy the bytes of `source`, and not its rights: a store's files are readable by whoever may read the store.

    Args:
        source: File to read.
        target: File to write; replaced where it exists.
    """
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


@contextmanager
def explained(failure: str) -> Iterator[None]:
    """Turn an operating system error into a `StoreError` that says what to do.

    Args:
        failure: What could not be done, with its paths.

    Raises:
        MissingObjectError: A file is not there.
        UnusableStoreError: The disk is full or read-only.
        StoreError: The system refused for another reason.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObjectError(f"{failure}: there is no file {error.filename}") from error
    except OSError as error:
        kind = kind_of(error)
        raise kind(f"{failure}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """Return what the operating system refused and what the user can do about it."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk is full ({error.strerror}); free some space or name another storage.uri, then resume"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"this user may not ({error.strerror}); correct the rights or name another storage.uri"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return f"a file stands where a folder should, or the reverse ({error.strerror}); name another storage.uri"
        case _:
            return f"{type(error).__name__}: {error}"
