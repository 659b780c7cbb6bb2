"""Signed manifests: who reads one can tell that its writer had the key, and not only access to the storage.

A manifest's document enters, and leaves with an HMAC-SHA256 (RFC 2104) over itself where the environment has a key. Its
digests cover the files, so that the signature does, too. Called by `manifest`.
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


def _signature(document: Mapping[str, Any], key: str) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
