"""The door of the store room: a URI enters, a `Store` leaves. Called by everything that reads or writes for a run."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from raylora.errors import InputError
from raylora.store.contract import Store
from raylora.store.local import FolderStore

__all__ = ["Store", "open_store"]


def open_store(uri: str) -> Store:
    """Open a folder or a bucket; nothing is read or written yet.

    Args:
        uri: A folder, ``file:///folder`` or ``s3://bucket/prefix``. Credentials come from the environment.

    Raises:
        InputError: The URI names no known kind of storage, no bucket, or carries a credential.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri.strip():
            raise InputError("storage.uri: got nothing; allowed: a folder or s3://bucket/prefix")
        return FolderStore(Path(uri))
    if scheme == "file" and rest.startswith("/"):
        return FolderStore(Path(unquote(rest)))
    if scheme != "s3":
        raise InputError(f"storage.uri: got '{scheme}://'; allowed: a folder, file:///folder, s3://bucket/prefix")
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise InputError("storage.uri: credentials do not belong in it; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    if not bucket:
        raise InputError(f"storage.uri: '{uri}' names no bucket; expected s3://bucket/prefix")
    # Imported for buckets alone: a run that stays on this machine does not pay for an S3 client.
    from raylora.store.s3 import BucketStore

    return BucketStore(bucket, prefix.strip("/"))
