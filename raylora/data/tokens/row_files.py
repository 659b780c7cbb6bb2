"""The files that rows name by their path: their bytes, and a digest of rows that covers them.

Enters: a ClassifiedFile and the folder where its path starts, or a Source of such rows. Leaves: the row with the bytes
of its file, or the Source with another digest. Called by tokenise, and by prepare.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from raylora.data.sources.examples import ClassifiedFile
from raylora.data.sources.rows import read_row
from raylora.data.sources.source import Source
from raylora.errors import DataError
from raylora.store.once import build_once

MOST_BYTES = 2**28
"""Of one file: of a recording at 16,000 samples a second more than two hours."""

_DIGEST = "sha256"
"""Name of the file that keeps a digest."""


def with_content(row: ClassifiedFile, folder: Path | None) -> ClassifiedFile:
    """The same row with the bytes of its file.

    Who may write rows may not thereby read what else is on this machine: a path that ends outside of the folder is
    refused, also an absolute one, and one that leads there by a link.

    Args:
        row: With a path, or with bytes already.
        folder: Of its dataset, where relative paths start; ``None`` where rows are not of this machine.

    Raises:
        DataError: There is no such file in the folder, it is larger than `MOST_BYTES`, or rows that are not of this
            machine name one.
    """
    if isinstance(row.content, bytes):
        return row
    if folder is None:
        raise DataError(
            f"{row.column}: got the path {row.content}; rows of a bucket or of the hub hold the bytes of their files, "
            "as Parquet files of `datasets` do. Put the bytes into the rows, or copy rows and files to this machine"
        )
    try:
        path = Path(os.path.realpath(folder / row.content))
        if not path.is_relative_to(os.path.realpath(folder)):
            raise DataError(
                f"{row.column}: {row.content} leads out of {folder}. Allowed: files in the folder of the rows, without "
                "links to elsewhere. Copy the file there"
            )
        if path.exists() and not path.is_file():
            raise DataError(f"{row.column}: {row.content} is no plain file; relative paths start at {folder}")
        if (num_bytes := path.stat().st_size) > MOST_BYTES:
            raise DataError(
                f"{row.column}: {row.content} has {num_bytes:,} bytes; allowed: {MOST_BYTES:,}. Take a part of it"
            )
        return replace(row, content=path.read_bytes())
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(
            f"{row.column}: {row.content} cannot be read ({said}); relative paths start at {folder}"
        ) from error


def with_files(source: Source, digests: Path) -> Source:
    """The same rows, with a digest that covers their files; these are read once on a machine, until one has changed.

    Rows that hold the bytes of their files are not even looked at again: their source has another digest first. A row
    or a file that cannot be read is passed over: nothing is kept under such a digest, since it is refused where the
    rows are encoded.

    Args:
        source: Of any rows; those of texts have no files, and neither have those of the hub.
        digests: Folder that keeps digests.

    Raises:
        StoreError: The folder cannot be written.
    """
    if source.read_hub is not None or source.spec.type not in ("image", "audio"):
        return source
    seen = hashlib.sha256(repr((source.digest, source.spec.type, sorted(source.spec.columns.items()))).encode())
    without_paths, names_files = digests / seen.hexdigest()[:32], False
    if without_paths.is_dir():
        return replace(source, digest=(without_paths / _DIGEST).read_text(encoding="ascii"))
    for row, folder in _rows(source):
        seen.update(repr(_stand(row, folder)).encode())
        names_files |= isinstance(row.content, str)
    place = digests / seen.hexdigest()[:32] if names_files else without_paths

    def digest(part: Path) -> None:
        (part / _DIGEST).write_text(_digest(source), encoding="ascii")

    try:
        kept = build_once(place, f"a digest of the files of {source.spec.path}", digest)
    except _Unread as unread:
        return replace(source, digest=unread.digest)
    return replace(source, digest=(kept / _DIGEST).read_text(encoding="ascii"))


class _Unread(Exception):
    """A file could not be read: perhaps it can be in a moment, so that what the others come to is not kept.

    Args:
        digest: Of the others.
    """

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


def _digest(source: Source) -> str:
    whole, is_whole = hashlib.sha256(source.digest.encode()), True
    for row, folder in _rows(source):
        try:
            whole.update(hashlib.sha256(cast(bytes, with_content(row, folder).content)).digest())
        except DataError:
            is_whole = False
    if not is_whole:
        raise _Unread(whole.hexdigest())
    return whole.hexdigest()


def _rows(source: Source) -> Iterator[tuple[ClassifiedFile, Path | None]]:
    """Rows that can be read, and where their paths start."""
    for file, _, text in source.read():
        with suppress(DataError, ValueError, RecursionError):
            row = read_row(json.loads(text), source.spec.type, source.spec.columns)
            yield cast(ClassifiedFile, row), source.folder(file)


def _stand(row: ClassifiedFile, folder: Path | None) -> tuple[int, ...] | None:
    """What changes with a row's file; ``None`` where it has none that is there, or its bytes are of its source."""
    if folder is None or isinstance(row.content, bytes):
        return None
    with suppress(OSError, ValueError):
        about = (folder / row.content).stat()
        return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
    return None
