"""Looks for a secret wherever a command can have left one: in what it says, in folders and buckets, in any bytes.

As it is, in UTF-16, and in what can be opened, also one in the other: hexadecimal, which Ray Tune writes pickles in;
zlib in base85, in which a sweep keeps its scheduler, or in base64; gzip and zip, wherever they begin. Other compression
(snappy, zstd) is not opened.
"""

from __future__ import annotations

import base64
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from raylora.store.blob import Store

DEEPEST = 4
"""Of things in things."""

MOST_BYTES = 1 << 28
"""Of what is opened."""

HEX = re.compile(rb"(?:[0-9a-f]{2}){16,}|(?:[0-9A-F]{2}){16,}")
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
BASE85 = re.compile(rb"[0-9A-Za-z!#$%&()*+\-;<=>?@^_`{|}~]{16,}")
COMPRESSED = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08")
"""How zlib and gzip begin."""
ZIPPED = b"PK\x03\x04"


def holds(data: bytes, secret: str, depth: int = DEEPEST) -> bool:
    """Whether a secret is in bytes of whatever kind.

    Args:
        data: The bytes.
        secret: As it is.
        depth: How many things in things are opened.
    """
    shapes = [secret.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")]
    if any(shape in data for shape in shapes):
        return True
    return depth > 0 and any(holds(inner, secret, depth - 1) for inner in _opened(data))


def _opened(data: bytes) -> Iterator[bytes]:
    for found in HEX.finditer(data):
        yield bytes.fromhex(found[0].decode())
    for found in BASE64.finditer(data):
        text = found[0].rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        yield base64.b64decode(text[: len(text) - (len(text) % 4 == 1)] + b"==")
    for found in BASE85.finditer(data):
        with suppress(ValueError):
            inner = base64.b85decode(found[0])
            if COMPRESSED.match(inner):  # most text looks like base85
                yield inner
    for found in COMPRESSED.finditer(data):
        with suppress(zlib.error):
            yield zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data[found.start() :], MOST_BYTES)
    if ZIPPED in data:
        with (
            suppress(zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error),
            zipfile.ZipFile(io.BytesIO(data[data.index(ZIPPED) :])) as archive,
        ):
            yield from (archive.read(name) for name in archive.namelist())


def files_with(secret: str, folder: Path) -> list[Path]:
    """Files below a folder, of which there must be some, that hold a secret."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files, folder
    return [file for file in files if holds(file.read_bytes(), secret)]


def keys_with(secret: str, store: Store, prefix: str) -> list[str]:
    """Keys of a store below a prefix, of which there must be some, whose objects hold a secret."""
    keys = store.keys(prefix)
    assert keys, prefix
    return [key for key in keys if holds(store.read(key), secret)]
