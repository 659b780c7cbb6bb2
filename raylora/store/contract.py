"""What a store is: objects under keys, one folder or bucket prefix, whole or not there at all.

Keys are relative, with forward slashes: ``runs/r1/run.json``. Two backends fulfil this (`local`, `s3`) and
pass the one suite in tests/contract. Called through `raylora.store.blob.open_store`.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from pathlib import Path

from raylora.errors import ExistingObjectError, InputError, StoreError
from raylora.log import get_logger

_log = get_logger(__name__)


class Store(ABC):
    """Objects under one URI. Every method raises `StoreError` with that URI when storage fails.

    Args:
        uri: Folder or ``s3://bucket/prefix``, without a trailing slash.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def uri_of(self, key: str) -> str:
        """Return the whole URI of a key."""
        return f"{self.uri}/{checked_key(key)}"

    @abstractmethod
    def child(self, prefix: str) -> Store:
        """Return the store of the keys below `prefix`."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, whole or not at all; what was there before is replaced.

        Args:
            key: Name in the store.
            data: All of the object.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Store `data` under `key` if there is nothing yet: of several writers, one alone succeeds.

        Args:
            key: Name in the store.
            data: All of the object. One that holds just this counts as this writer's own, whose answer was lost.

        Raises:
            ExistingObjectError: There is another object.
        """

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return what is stored under `key`.

        Raises:
            MissingObjectError: There is no such object.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether there is an object of exactly this key."""

    @abstractmethod
    def version(self, key: str) -> str:
        """Return a text that differs whenever the object's content was replaced, without reading the object.

        Raises:
            MissingObjectError: There is no such object.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]:
        """Return every key below the folder `prefix`, sorted and relative to this store; all keys where it is empty."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Delete the object `prefix` and everything below the folder of that name, where they exist."""

    @abstractmethod
    def upload(self, local: Path, key: str) -> None:
        """Store a local file under `key`, whole or not at all.

        Args:
            local: The file.
            key: Name in the store.
        """

    @abstractmethod
    def download(self, key: str, local: Path) -> None:
        """Write the object `key` to a local file, whole or not at all; missing folders are made.

        Args:
            key: Name in the store.
            local: File to write.

        Raises:
            MissingObjectError: There is no such object.
        """

    @abstractmethod
    def check_there(self) -> None:
        """Find out that there is a place to list, be it empty; nothing is written.

        Raises:
            StoreError: The folder, or the bucket, is not there.
        """

    def check_writable(self) -> None:
        """Write, read and delete one small object, and leave nothing behind.

        Storage that lets a second writer in where a first one was is told of in the log.

        Raises:
            StoreError: One of the three is not possible; said before training starts.
        """
        key, data = f".write-test-{uuid.uuid4().hex}", b"raylora"
        self.write(key, data)
        try:
            if self.read(key) != data:
                raise StoreError(f"{self.uri}: what was just written reads back differently; check the storage itself")
            if not self._keeps(key):
                _log.warning(
                    "%s: this storage does not keep two writers apart (S3: If-None-Match); see to it that no two "
                    "commands work on one run at a time",
                    self.uri,
                )
        finally:
            self.delete(key)

    def _keeps(self, key: str) -> bool:
        """Whether an object stays what it is when another is to be created in its place."""
        try:
            self.create(key, b"another writer")
        except ExistingObjectError:
            return True
        return False


def checked_key(key: str) -> str:
    """Return `key` without outer slashes.

    Raises:
        InputError: It is empty, or it points out of the store.
    """
    parts = key.strip("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise InputError(f"'{key}' is no name inside a store; names have no empty, '.' or '..' parts")
    return "/".join(parts)
