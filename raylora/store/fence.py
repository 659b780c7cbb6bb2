"""Workers of a driver that was taken over change nothing of the run any more: the store asks before each change.

A driver may sleep, and its workers with it or without it, while another goes on with its run. Drivers are numbered
(`lease`), and workers are told their driver's number: what they write, create or delete needs that there is no newer
one. The thought is Kleppmann's fencing token (How to do distributed locking, 2016); as no object store compares such
numbers itself, a change that is already on its way when another driver comes can still arrive. Called by the runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from raylora.errors import StoreError
from raylora.store.blob import open_store
from raylora.store.contract import Store

FOLDER = "driver"


@dataclass(frozen=True)
class Fence:
    """The number that a driver has among those of a run, for its workers.

    Args:
        uri: Of the store in which drivers are numbered: a run's own, or a sweep's.
        number: Of the driver, from 1.
        name: Of the run or the sweep, for messages.
    """

    uri: str
    number: int
    name: str


def open_fenced(uri: str, fence: Fence) -> Store:
    """Open a store for a driver's workers; nothing is read or written yet.

    Args:
        uri: Of the store.
        fence: The driver's own number.
    """
    return _FencedStore(open_store(uri), open_store(fence.uri), fence)


class _FencedStore(Store):
    """A store that its driver's workers change while there is no newer driver.

    Args:
        inner: What is read and changed.
        drivers: Where drivers are numbered; the store at the fence's URI.
        fence: The driver's own number.
    """

    def __init__(self, inner: Store, drivers: Store, fence: Fence) -> None:
        super().__init__(inner.uri)
        self._inner, self._drivers, self._fence = inner, drivers, fence

    @override
    def child(self, prefix: str) -> Store:
        return _FencedStore(self._inner.child(prefix), self._drivers, self._fence)

    @override
    def write(self, key: str, data: bytes) -> None:
        self._check()
        self._inner.write(key, data)

    @override
    def create(self, key: str, data: bytes) -> None:
        self._check()
        self._inner.create(key, data)

    @override
    def upload(self, local: Path, key: str) -> None:
        self._check()
        self._inner.upload(local, key)

    @override
    def delete(self, prefix: str) -> None:
        self._check()
        self._inner.delete(prefix)

    @override
    def read(self, key: str) -> bytes:
        return self._inner.read(key)

    @override
    def exists(self, key: str) -> bool:
        return self._inner.exists(key)

    @override
    def version(self, key: str) -> str:
        return self._inner.version(key)

    @override
    def keys(self, prefix: str = "") -> list[str]:
        return self._inner.keys(prefix)

    @override
    def download(self, key: str, local: Path) -> None:
        self._inner.download(key, local)

    @override
    def check_there(self) -> None:
        self._inner.check_there()

    def _check(self) -> None:
        if max(numbers(self._drivers), default=0) > self._fence.number:
            raise StoreError(
                f"{self._fence.name}: another raylora command has taken it over; these workers write nothing more"
            )


def key_of(number: int) -> str:
    """Where the holder of a number says that it lives.

    Args:
        number: From 1.
    """
    return f"{FOLDER}/{number:08d}.json"


def numbers(store: Store) -> list[int]:
    """Numbers of drivers that were, or are, in no order.

    Args:
        store: In which drivers are numbered.

    Raises:
        StoreError: The store does not answer.
    """
    found = (re.fullmatch(rf"{FOLDER}/(\d+)\.json", key) for key in store.keys(FOLDER))
    return [int(match[1]) for match in found if match]
