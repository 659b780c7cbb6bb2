"""One dataset of the specification becomes raw rows with a digest of their content.

Enters: a DatasetSpec. Leaves: a Source. Called by prepare.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raylora.data.sources.files import DataFile, bucket_files, local_files
from raylora.data.sources.formats import FORMATS, RawRow, place_of, read_rows
from raylora.errors import DataError
from raylora.spec.fields.data import DatasetSpec

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """Rows of one dataset, not yet read.

    Args:
        spec: What was asked for.
        digest: SHA-256 over the content: equal digests hold equal rows in equal order, wherever they lie.
        files: The files, or nothing for a hub dataset.
        read_hub: Reads the rows of a hub dataset; ``None`` for files.
    """

    spec: DatasetSpec
    digest: str
    files: tuple[DataFile, ...]
    read_hub: Callable[[], Iterator[RawRow]] | None = None

    def read(self) -> Iterator[tuple[int, int, str]]:
        """Yield the index of the file, the line or row in it counted from 1, and the row as JSON text.

        Raises:
            DataError: A file cannot be read; the message names it and the line.
        """
        if self.read_hub is not None:
            yield from ((0, number, row) for number, row in self.read_hub())
        for index, file in enumerate(self.files):
            yield from ((index, number, row) for number, row in read_rows(file.local, file.name, file.ending))

    def place(self, file: int, number: int) -> str:
        """Say where a row is, for people: ``rows.jsonl, line 7``.

        Args:
            file: Index of the file, from 0.
            number: Line or row in it, from 1; both as `read` gives them.
        """
        if self.read_hub is not None:
            return f"{self.spec.path}, split {self.spec.split!r}, row {number}"
        return place_of(self.files[file].name, self.files[file].ending, number)

    def folder(self, file: int) -> Path | None:
        """Where relative paths in the rows of a file start; ``None`` where its rows are not of this machine.

        Args:
            file: Index of the file, from 0.
        """
        if self.read_hub is not None or "://" in self.files[file].name:
            return None
        return self.files[file].local.parent


def open_source(spec: DatasetSpec, downloads: Path) -> Source:
    """Find a dataset's rows: a bucket's, this machine's or the hub's.

    A path is the hub's where it looks like a hub id (``name`` or ``owner/name``), has no data file's ending and
    names nothing on this machine.

    Args:
        spec: The dataset.
        downloads: Folder that keeps objects downloaded from object storage.

    Raises:
        DataError: Nothing is there, or its format is not known.
    """
    if spec.path.startswith("s3://"):
        files = bucket_files(spec.path, downloads)
    elif "://" in spec.path:
        raise DataError(
            f"datasets: path: {spec.path} is of a kind that raylora does not read; allowed: a file, folder or glob, "
            "here or s3://, or a hub id; copy the rows to one of these"
        )
    elif _is_hub_id(spec.path):
        # Imported for hub datasets alone: other runs do not wait for it.
        from raylora.data.sources.hub import open_hub

        hub = open_hub(spec)
        about = repr((spec.path, spec.name, spec.split, hub.commit))
        return Source(spec, hashlib.sha256(about.encode()).hexdigest(), (), hub.read)
    else:
        files = local_files(spec.path)
    return Source(spec, _digest(files), tuple(files))


def look_here(spec: DatasetSpec) -> None:
    """Find out at once whether a dataset of this machine is there; one of a bucket or of the hub is left alone.

    Args:
        spec: The dataset.

    Raises:
        DataError: Nothing is there, or its format is not known.
    """
    if "://" not in spec.path and not _is_hub_id(spec.path):
        local_files(spec.path)


def _is_hub_id(path: str) -> bool:
    has_ending = os.path.splitext(path)[1].lower() in FORMATS
    return bool(_HUB_ID.fullmatch(path)) and not has_ending and not os.path.exists(path)


def _digest(files: list[DataFile]) -> str:
    whole = hashlib.sha256()
    for file in files:
        with open(file.local, "rb") as content:
            whole.update(file.ending.encode())
            whole.update(hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()
