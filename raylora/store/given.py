"""What a run is given in a bucket or on a hub, its rows or its base, is only read: no store of its own refuses it.

A refusal enters; wrong input that names what was asked for leaves, or that this machine has no room for a copy of it.
Called by data and model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raylora.errors import InputError, StoreError, UnusableStoreError
from raylora.store.files import kind_of

NO_ROOM = "Not enough disk space"
"""How `datasets` begins to say, before it writes, that the disk is full."""


@contextmanager
def given(kind: type[InputError], what: str) -> Iterator[None]:
    """Tell what keeps an input from being read as wrong input.

    Args:
        kind: What it is raised as.
        what: The input, by its field and its URI.

    Raises:
        InputError: Of that kind, in place of a `StoreError` of the bucket.
        UnusableStoreError: This machine's own disk, where it is copied to, is full or read-only.
    """
    try:
        yield
    except StoreError as error:
        if kind_of(error) is UnusableStoreError:
            raise
        raise kind(f"{what}: cannot be read: {error} (of this, reading and listing is enough)") from error


@contextmanager
def copied(what: str) -> Iterator[None]:
    """Tell a disk that takes no copy, of those that the hub's libraries keep; all else that they raise passes.

    Args:
        what: That is copied, by its field or its path.

    Raises:
        UnusableStoreError: The disk is full or read-only.
    """
    try:
        yield
    except Exception as error:  # passed on; what a library raises from the system's error shares no class
        if kind_of(error) is not UnusableStoreError and not str(error).startswith(NO_ROOM):
            raise
        raise UnusableStoreError(
            f"{what}: no copy of it could be kept ({error.__cause__ or error}). Free some space there, or set HF_HOME "
            "to a folder on another disk"
        ) from error
