"""A secret that was planted is found, whatever it was put into."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from raylora.store.blob import open_store
from tests.cluster.secrets_found import files_with, keys_with

pytestmark = pytest.mark.cluster

SECRET = "a-secret-that-was-planted"


def zipped(data: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/name", data)
    return file.getvalue()


def kept(data: bytes) -> bytes:
    """As a sweep keeps its scheduler beside what Tune keeps."""
    return json.dumps({"runner": {"kept": base64.b85encode(zlib.compress(data, 1)).decode(), "more": 1}}).encode()


WAYS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: data,
    "utf-16-le": lambda data: data.decode("latin-1").encode("utf-16-le"),
    "utf-16-be": lambda data: data.decode("latin-1").encode("utf-16-be"),
    "hex": lambda data: data.hex().encode(),
    "HEX": lambda data: data.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 of URLs": lambda data: base64.urlsafe_b64encode(b"\xfb\xff\xfe" + data).rstrip(b"="),
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "zip": zipped,
    "base85": kept,
    "zlib in base64": lambda data: base64.b64encode(zlib.compress(data)),
    "base85 in hex": lambda data: kept(data).hex().encode(),
    "base85 in gzip in zip": lambda data: zipped(gzip.compress(kept(data))),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_planted_secret_is_found(tmp_path: Path, way: str):
    store = open_store(str(tmp_path))
    store.write(
        "runs/clean", b"before " + WAYS[way](b"\x80\x04access key: owner" + SECRET[:-1].encode() + b"\0") + b"\n"
    )
    assert (files_with(SECRET, tmp_path), keys_with(SECRET, store, "runs")) == ([], [])
    store.write("runs/deep/in/it", b"before " + WAYS[way](b"\x80\x04key: " + SECRET.encode() + b"\0") + b"\nbehind")
    assert files_with(SECRET, tmp_path) == [tmp_path / "runs/deep/in/it"]
    assert keys_with(SECRET, store, "runs") == ["runs/deep/in/it"]
