"""Looks for a secret wherever a command can have left one: in what it says, in folders and buckets, in any bytes.

As it is, in UTF-16, and in hexadecimal, which Ray Tune writes pickles in. What is compressed or encoded otherwise is
not opened.
"""

from __future__ import annotations

from pathlib import Path

from raylora.store.blob import Store


def holds(data: bytes, secret: str) -> bool:
    """Whether a secret is in bytes of whatever kind."""
    plain = secret.encode()
    shapes = (plain, secret.encode("utf-16-le"), secret.encode("utf-16-be"), plain.hex().encode())
    return any(shape in data for shape in shapes)


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
