"""Signed manifests and files: who reads one can tell that its writer had the key, and not only access to the storage.

A manifest's document enters, and leaves with an HMAC-SHA256 (RFC 2104) over itself where the environment has a key. Its
digests cover the files, so that the signature does, too. A file without a manifest carries its signature before its
bytes. Called by `manifest`, and by the sweep for what Ray Tune keeps.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

from raylora.errors import CorruptObjectError

KEY_NAME = "RAYLORA_SIGNING_KEY"
"""Variable with the key, the same for all who write and read; where it is unset, nothing is signed or asked for."""

FIELD = "hmac_sha256"

SEAL = b"raylora-hmac-sha256 "
"""A sealed file begins with it, then come the signature in hexadecimal, a line's end, and what was sealed. It is signed
with the file: no document of a manifest begins so, whose signature could be taken for a file's."""

SEAL_BYTES = len(SEAL) + 2 * hashlib.sha256().digest_size + 1


def is_signing() -> bool:
    """Whether the environment has a key: what is written is signed, and what is read is checked."""
    return bool(os.environ.get(KEY_NAME))


def signed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with its signature; as it is where there is no key.

    Args:
        document: Of what JSON holds.
    """
    key = os.environ.get(KEY_NAME)
    return {**document, FIELD: _signature(document, key)} if key else dict(document)


def check_signature(document: Mapping[str, Any], uri: str) -> None:
    """Find out that a document was signed with the key of the environment; where there is none, all are taken.

    Args:
        document: As it was read.
        uri: Where it was read from.

    Raises:
        CorruptObjectError: It was not, or was changed since.
    """
    key = os.environ.get(KEY_NAME)
    if not key:
        return
    found = document.get(FIELD)
    if found is None:
        raise CorruptObjectError(f"{uri}: not signed, and {KEY_NAME} is set; unset it to read what was written without")
    unsigned = {name: value for name, value in document.items() if name != FIELD}
    if not isinstance(found, str) or not hmac.compare_digest(found.encode(), _signature(unsigned, key).encode()):
        raise CorruptObjectError(
            f"{uri}: its signature is not of the key in {KEY_NAME}; set the key that it was written with, or restore "
            "it from a copy"
        )


def sealed(data: bytes) -> bytes:
    """Return a file's bytes after their signature; as they are where there is no key."""
    key = os.environ.get(KEY_NAME)
    return SEAL + _seal(data, key) + b"\n" + data if key else data


def unsealed(data: bytes, uri: str) -> bytes:
    """Return what was sealed, after finding out that it was with the key of the environment; with none, all is taken.

    Args:
        data: The file as it was read.
        uri: Where it was read from.

    Raises:
        CorruptObjectError: It was not, or was changed since.
    """
    key, is_sealed = os.environ.get(KEY_NAME), data.startswith(SEAL)
    content = data[SEAL_BYTES:] if is_sealed else data
    if not key:
        return content
    if not is_sealed:
        raise CorruptObjectError(
            f"{uri}: not signed, and {KEY_NAME} is set; reading it can run code, so start anew, or unset {KEY_NAME} to "
            "go on with what was written without, if all who could write there may run code here"
        )
    if not hmac.compare_digest(data[:SEAL_BYTES], SEAL + _seal(content, key) + b"\n"):
        raise CorruptObjectError(
            f"{uri}: its signature is not of the key in {KEY_NAME}; set the key that it was written with, restore it "
            "from a copy, or start anew"
        )
    return content


def _seal(data: bytes, key: str) -> bytes:
    return hmac.new(key.encode(), SEAL + data, hashlib.sha256).hexdigest().encode()


def _signature(document: Mapping[str, Any], key: str) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
