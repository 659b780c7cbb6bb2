"""A folder that appears whole, by a rename, or not at all.

The place that somebody named enters; an empty folder beside it leaves, to be filled. Called by what writes a model to a
folder of the user's.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from raylora.errors import InputError, StoreError
from raylora.store.files import PARTIAL_SUFFIX


def free_place(folder: Path) -> Path:
    """Return the place for a new folder as an absolute path, before anything is done that takes time.

    Raises:
        InputError: Something is there already, or it is no place of this machine.
    """
    if re.match(r"\w+:/", str(folder)):
        raise InputError(f"--out: got {folder}; allowed: a folder of this machine. Copy it to storage from there")
    place = folder.expanduser().resolve()
    try:
        is_taken = place.exists() and (not place.is_dir() or any(place.iterdir()))
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be looked at ({error.strerror}); name another folder") from error
    if is_taken:
        raise InputError(
            f"--out {folder}: something is there already. Allowed: a new folder or an empty one. Name another, or "
            "delete this one"
        )
    return place


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Hand out an empty folder; it takes its place if the block succeeds, and vanishes if it fails.

    Args:
        place: As from :func:`free_place`; folders above it are made.

    Raises:
        InputError: The folder cannot be made.
        StoreError: It is whole and cannot take its place.
    """
    partial = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    missing = [parent for parent in place.parents if not parent.exists()]
    try:
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"--out {place}: cannot be made ({error.strerror}); name another folder") from error
        yield partial
        with writing(place):
            partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):  # what took its place is in it
                parent.rmdir()


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Tell what a disk refuses while files are written.

    Args:
        place: Where they are to be in the end.

    Raises:
        StoreError: In place of an error of the system.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise StoreError(
            f"--out {place}: cannot be written ({error}); nothing was left there. Check the free space and the rights "
            "of that disk, or name another folder"
        ) from error
