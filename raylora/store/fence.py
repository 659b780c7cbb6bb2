"""Workers that others took the place of change nothing of the run any more: the store asks before each change.

A driver may sleep, and its workers with it or without it, while another goes on with its run. Drivers are numbered
(`lease`), and workers are told their driver's number: what they write, create or delete needs that there is no newer
one. The thought is Kleppmann's fencing token (How to do distributed locking, 2016); as no object store compares such
numbers itself, a change that is already on its way when another driver comes can still arrive. A driver's groups of
workers that have the same work, one after the other, are numbered in the same way: one that was cut off from Ray, or
frozen, may still reach the storage. Called by the runtime.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from raylora.errors import ExistingObjectError, StoreError
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
        group: What `enter` gave a group of workers; the driver itself has none.
    """

    uri: str
    number: int
    name: str
    group: str = ""


def open_fenced(uri: str, fence: Fence) -> Store:
    """Open a store for a driver's workers; nothing is read or written yet.

    Args:
        uri: Of the store.
        fence: The driver's own number, with that of the group.
    """
    return _FencedStore(open_store(uri), open_store(fence.uri), fence)


def enter(fence: Fence, work: str) -> str:
    """Take the next number among the groups of a driver's workers that have the same work, one after the other.

    Args:
        fence: The driver's own number.
        work: Names it among what the driver's workers do at once.

    Returns:
        What the fence of this group holds; those before it change nothing from now on.

    Raises:
        StoreError: The store refused.
    """
    store, folder = open_store(fence.uri), f"{_folder_of(fence.number)}/{work}"
    while True:
        before = store.keys(folder)
        numbers = [key.rpartition("/")[2] for key in before]
        number = max((int(each) for each in numbers if each.isdigit()), default=0) + 1  # a stray file is none
        group = f"{folder}/{number:08d}"
        try:
            store.create(group, secrets.token_hex(8).encode())
        except ExistingObjectError:
            continue
        for left in before:
            store.delete(left)
        return group


class _FencedStore(Store):
    """A store that its driver's workers change while there is no newer driver, nor a newer group of them.

    Args:
        inner: What is read and changed.
        drivers: Where drivers are numbered; the store at the fence's URI.
        fence: The driver's own number, with that of the group.
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
        keys, fence = self._drivers.keys(FOLDER), self._fence
        if max(_numbers(keys), default=0) > fence.number:
            raise StoreError(
                f"{fence.name}: another raylora command has taken it over; these workers write nothing more"
            )
        if fence.group and max(_alike(keys, fence.group), default="") > fence.group:
            raise StoreError(f"{fence.name}: newer workers have taken it over; these write nothing more")


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
    return _numbers(store.keys(FOLDER))


def forget(store: Store, number: int) -> None:
    """Delete what an earlier driver left: its number, and those of its groups of workers.

    Args:
        store: In which drivers are numbered.
        number: From 1.

    Raises:
        StoreError: The store refused.
    """
    store.delete(key_of(number))
    store.delete(_folder_of(number))


def _folder_of(number: int) -> str:
    return f"{FOLDER}/{number:08d}"


def _numbers(keys: Iterable[str]) -> list[int]:
    found = (re.fullmatch(rf"{FOLDER}/(\d+)\.json", key) for key in keys)
    return [int(match[1]) for match in found if match]


def _alike(keys: Iterable[str], group: str) -> list[str]:
    """Groups that have, or had, the same work."""
    folder = group.rpartition("/")[0]
    return [key for key in keys if key.startswith(f"{folder}/")]
