"""A bucket as a store, through s3fs. The bucket's own rule makes each object whole or absent.

In come keys and bytes, out come objects. Credentials, region and endpoint come from the environment
(``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` ...) and stay there: a pickled store carries its URI and nothing else.
Called through `raylora.store.blob.open_store`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import botocore.session
import s3fs
from typing_extensions import override

from raylora.errors import ExistingObjectError, MissingObjectError
from raylora.store import s3_session
from raylora.store.contract import Store, checked_key
from raylora.store.files import explained, replacing
from raylora.store.retry import PATIENCE_S, retrying
from raylora.store.s3_errors import (
    is_existing_object,
    is_forbidden,
    is_missing_object,
    is_transient,
    is_unconditional,
    store_error,
)

T = TypeVar("T")

CHECK_PATIENCE_S = 10.0
"""The check before training fails sooner: nothing is lost yet, and a wrong endpoint is the likely reason."""

LIST_S = 5.0
"""Longest wait for a list of buckets, which somebody asks for who wants to know whether S3 answers."""

PART_BYTES = 16 << 20
"""Larger objects travel in parts of this size, up to ten at a time; S3 takes 10,000 of them for an object."""

RETRIES = {"mode": "standard", "total_max_attempts": 2}
TIMEOUTS = {"connect_timeout": 5, "read_timeout": s3_session.READ_TIMEOUT_S, "retries": RETRIES}


class BucketStore(Store):
    """Objects below one prefix of one bucket.

    Args:
        bucket: Name of the bucket.
        prefix: Folder inside the bucket; empty for all of it.
        patience_s: Seconds for which a server that does not answer is asked again.
    """

    def __init__(self, bucket: str, prefix: str = "", patience_s: float = PATIENCE_S) -> None:
        self.bucket, self.patience_s = bucket, patience_s
        self.prefix = checked_key(prefix) if prefix else ""
        self._root = f"{bucket}/{self.prefix}".rstrip("/")
        super().__init__(f"s3://{self._root}")
        self._connection = Connection()

    def __reduce__(self) -> tuple[type[BucketStore], tuple[str, str, float]]:
        return type(self), (self.bucket, self.prefix, self.patience_s)

    @override
    def child(self, prefix: str) -> BucketStore:
        store = BucketStore(self.bucket, f"{self.prefix}/{checked_key(prefix)}".lstrip("/"), self.patience_s)
        store._connection = self._connection
        return store

    @override
    def write(self, key: str, data: bytes) -> None:
        self._do("write", self._path(key), lambda files, path: files.pipe_file(path, data, chunksize=PART_BYTES))

    @override
    def create(self, key: str, data: bytes) -> None:
        def create(files: s3fs.S3FileSystem, path: str) -> bool:
            try:
                files.pipe_file(path, data, mode="create", chunksize=PART_BYTES)
            except OSError as error:
                if is_unconditional(error):
                    files.pipe_file(path, data, chunksize=PART_BYTES)
                    return True
                if is_existing_object(error):
                    return False
                raise
            return True

        path = self._path(key)
        if self._do("create", path, create):
            return
        with suppress(MissingObjectError):
            if self.read(key) == data:
                return
        raise ExistingObjectError(f"cannot create s3://{path}: there is one already")

    @override
    def read(self, key: str) -> bytes:
        return self._do("read", self._path(key), lambda files, path: bytes(files.cat_file(path)))

    @override
    def exists(self, key: str) -> bool:
        def is_object(files: s3fs.S3FileSystem, path: str) -> bool:
            try:
                return bool(files.info(path)["type"] == "file")
            except FileNotFoundError as error:
                if is_missing_object(error):
                    return False
                raise

        return self._do("look for", self._path(key), is_object)

    @override
    def version(self, key: str) -> str:
        about = self._do("look at", self._path(key), lambda files, path: files.info(path))
        return f"{about['ETag']}-{about['size']}"

    @override
    def keys(self, prefix: str = "") -> list[str]:
        def below(files: s3fs.S3FileSystem, path: str) -> list[str]:
            # A marker of an empty folder ends with a slash and is no object of ours.
            found = [name for name in files.find(path) if not name.endswith("/") and name.startswith(f"{path}/")]
            return sorted(name.removeprefix(f"{self._root}/") for name in found)

        return self._do("list", self._path(prefix) if prefix else self._root, below)

    @override
    def delete(self, prefix: str) -> None:
        path = checked_key(prefix)
        for key in self.keys(path) or [path]:
            self._do("delete", self._path(key), lambda files, path: files.rm_file(path))

    @override
    def upload(self, local: Path, key: str) -> None:
        self._do("upload", self._path(key), lambda files, path: files.put_file(str(local), path, chunksize=PART_BYTES))

    @override
    def download(self, key: str, local: Path) -> None:
        with explained(f"cannot download {self.uri_of(key)} to {local}"), replacing(local) as partial:
            self._do("download", self._path(key), lambda files, path: files.get_file(path, str(partial)))

    @override
    def check_there(self) -> None:
        """As in `Store`; a prefix is made of its objects, so every one of a bucket is there."""
        self._do(
            "list", self._root, lambda files, path: files.call_s3("list_objects_v2", Bucket=self.bucket, MaxKeys=1)
        )

    @override
    def check_writable(self) -> None:
        """As in `Store`, with little patience: what is wrong now is most likely a setting."""
        hasty = BucketStore(self.bucket, self.prefix, min(self.patience_s, CHECK_PATIENCE_S))
        Store.check_writable(hasty)

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked_key(key)}"

    def _do(self, verb: str, path: str, action: Callable[[s3fs.S3FileSystem, str], T]) -> T:
        what = f"cannot {verb} s3://{path}"
        try:
            return retrying(
                lambda: action(self._connection.files(), path),
                what=what,
                is_transient=is_transient,
                patience_s=self.patience_s,
            )
        except Exception as error:  # botocore, aiohttp and s3fs share no root but Exception
            raise store_error(error, what, self.bucket) from error


def credential_source() -> str | None:
    """Where botocore finds credentials, in its own word such as ``env`` or ``iam-role``; ``None`` where it finds none.

    Last it asks the metadata service that machines at AWS have: here once, for a second.
    """
    session = botocore.session.get_session()
    for name in ("metadata_service_timeout", "metadata_service_num_attempts"):
        session.set_config_variable(name, 1)
    found = session.get_credentials()
    return None if found is None else str(found.method)


def bucket_names() -> list[str] | None:
    """Ask for the buckets that these credentials see; without patience.

    Returns:
        Their names; ``None`` where the credentials are taken and may not ask.

    Raises:
        StoreError: S3 does not answer, or not to these credentials.
    """
    try:
        answer = Connection().files().call_s3("list_buckets", timeout=LIST_S)
    except Exception as error:  # botocore, aiohttp and s3fs share no root but Exception
        if is_forbidden(error):
            return None
        raise store_error(error, "cannot list the buckets", "any bucket") from error
    return [bucket["Name"] for bucket in answer["Buckets"]]


class Connection:
    """One process's S3 client, made when it is first needed."""

    def __init__(self) -> None:
        self._files: s3fs.S3FileSystem | None = None
        self._pid = 0

    def files(self) -> s3fs.S3FileSystem:
        """Return the client; one made before a fork cannot be used after it."""
        if self._files is None or self._pid != os.getpid():
            self._files, self._pid = _connect(), os.getpid()
        return self._files


def _connect() -> s3fs.S3FileSystem:
    client: dict[str, Any] = {}
    # botocore reads AWS_DEFAULT_REGION only; every other SDK, and so users, AWS_REGION.
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        client["region_name"] = region
    files = s3fs.S3FileSystem(
        client_kwargs=client,
        config_kwargs={
            **TIMEOUTS,
            "http_session_cls": s3_session.Session,
            "connector_args": {"socket_factory": s3_session.open_socket},
        },
        use_listings_cache=False,  # other processes write here too
        skip_instance_cache=True,  # a cached instance would keep credentials that have changed since
    )
    files.retries = 1  # repeating is `retrying`'s business alone
    return files
