"""A dataset's path becomes files on this machine.

Enters: a path as the user wrote it (file, folder or glob, local or in a bucket) and a folder for downloads.
Leaves: the files in a fixed order, each with the name its user knows it by. Called by source.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import regex
from fsspec.utils import glob_translate

from raylora.data.sources.formats import FORMATS
from raylora.errors import DataError
from raylora.spec.text.pattern import matching
from raylora.store.blob import Store, open_store
from raylora.store.given import given
from raylora.store.once import build_once

# What `Dataset.save_to_disk` writes beside its Arrow files: no rows.
_NO_ROWS = frozenset({"dataset_info.json", "state.json", "dataset_dict.json"})

GLOB_TIMEOUT_S = 10.0
"""Longest search over all keys of a bucket. A glob with many stars tries many ways to part each key among them."""


@dataclass(frozen=True)
class DataFile:
    """One file of rows.

    Args:
        name: Path or URI its user knows it by; error messages say this one.
        local: Where its bytes are on this machine.
    """

    name: str
    local: Path

    @property
    def ending(self) -> str:
        """The name's last suffix in lower case, such as ``.jsonl``."""
        return PurePosixPath(self.name).suffix.lower()


def local_files(path: str) -> list[DataFile]:
    """List the files of a local file, folder or glob in a fixed order.

    Raises:
        DataError: No such file, or no file of a known format.
    """
    place = os.path.expanduser(path)
    if os.path.isdir(place):
        names = [str(entry) for entry in Path(place).rglob("*") if entry.is_file()]
    elif glob.has_magic(place) and not os.path.exists(place):
        names = [name for name in glob.glob(place, recursive=True) if os.path.isfile(name)]
    else:
        names = [place] if os.path.isfile(place) else []
    return [DataFile(name, Path(name)) for name in _readable(path, names)]


def bucket_files(uri: str, downloads: Path) -> list[DataFile]:
    """Download the objects of a file, folder or glob of a bucket, unless they are there already.

    Args:
        uri: ``s3://bucket/...``; credentials come from the environment.
        downloads: Folder that keeps downloaded objects, one folder for each version of each object.

    Raises:
        DataError: No such object, none of a known format, a glob that cannot be matched, or a bucket that cannot be
            read.
        StoreError: The folder for downloads cannot be written.
    """
    with given(DataError, f"datasets: {uri}"):
        store, keys = _found(uri)
    return [_download(store, key, downloads) for key in _readable(uri, keys)]


def _found(uri: str) -> tuple[Store, Sequence[str]]:
    """A store, and its keys that a path means."""
    folder, _, last = uri.rpartition("/")
    if glob.has_magic(uri):
        folder = re.split(r"[*?[]", uri, maxsplit=1)[0].rpartition("/")[0]
        store = open_store(folder)
        return store, _matching(uri, uri.removeprefix(f"{folder}/"), store.keys(""))
    if PurePosixPath(uri).suffix.lower() in FORMATS:
        store = open_store(folder)
        return store, [last] if store.exists(last) else []
    store = open_store(uri)
    return store, store.keys()


def _matching(uri: str, pattern: str, keys: Sequence[str]) -> list[str]:
    try:
        return matching(glob_translate(pattern), keys, GLOB_TIMEOUT_S)
    except (ValueError, regex.error, TimeoutError) as error:
        raise DataError(
            f"{uri}: cannot be matched ({error}). Allowed: *, ? and [...] in a name, and ** for any folders. "
            "Write fewer of them, or name the folder"
        ) from error


def _readable(path: str, names: Sequence[str]) -> list[str]:
    """Keep the names of one known format, sorted; a file named in full must have one."""
    if not names:
        raise DataError(f"{path}: no such file, folder or match; relative paths start at {os.getcwd()}")
    rows = [name for name in names if PurePosixPath(name).name not in _NO_ROWS]
    known = sorted(name for name in rows if PurePosixPath(name).suffix.lower() in FORMATS)
    endings = sorted({PurePosixPath(name).suffix.lower() for name in known})
    if not known:
        raise DataError(f"{path}: no file that can be read; allowed endings: {', '.join(FORMATS)}")
    if len(endings) > 1:
        raise DataError(
            f"{path}: holds files of several formats ({', '.join(endings)}); say which, as in '*{endings[0]}'"
        )
    return known


def _download(store: Store, key: str, downloads: Path) -> DataFile:
    uri = store.uri_of(key)
    with given(DataError, f"datasets: {uri}"):
        version = hashlib.sha256(repr((uri, store.version(key))).encode()).hexdigest()
    name = PurePosixPath(key).name

    def download(part: Path) -> None:
        with given(DataError, f"datasets: {uri}"):
            store.download(key, part / name)

    return DataFile(uri, build_once(downloads / version[:32], f"a copy of {uri}", download) / name)
