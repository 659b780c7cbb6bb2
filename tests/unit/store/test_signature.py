"""Groups that are signed: what was not written with the key is not read with it."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from raylora.errors import CorruptObjectError
from raylora.runtime.cluster.environment import forwarded
from raylora.store.blob import Store, open_store
from raylora.store.manifest import MANIFEST, fetch, publish, read_manifest
from raylora.store.signature import FIELD, KEY_NAME, SEAL, sealed, unsealed

KEY = "a-key-nobody-may-print"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def with_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)


def written(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(f"group/{MANIFEST}"))
    return found


def rewrite(store: Store, document: dict[str, Any]) -> None:
    store.write(f"group/{MANIFEST}", json.dumps(document).encode())


def test_what_was_signed_is_read_with_the_key(store: Store, with_key: None, tmp_path: Path):
    publish(store, "group", {"a": b"bytes"}, {"step": 3})
    assert fetch(store, "group", tmp_path / "local").about == {"step": 3}


def test_the_signature_is_an_hmac_of_the_rest(store: Store, with_key: None):
    publish(store, "group", {"a": b"bytes"}, {"name": "ü"})
    document = written(store)
    found = document.pop(FIELD)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert found == hmac.digest(KEY.encode(), text.encode(), "sha256").hex()


def test_what_was_not_signed_is_refused_with_a_key(store: Store, monkeypatch: pytest.MonkeyPatch):
    publish(store, "group", {"a": b"bytes"}, {})
    assert FIELD not in written(store)
    monkeypatch.setenv(KEY_NAME, KEY)
    with pytest.raises(CorruptObjectError, match=rf"manifest\.json: not signed, and {KEY_NAME} is set"):
        read_manifest(store, "group")


def test_another_key_is_refused_and_no_key_is_named(store: Store, with_key: None, monkeypatch: pytest.MonkeyPatch):
    publish(store, "group", {"a": b"bytes"}, {})
    monkeypatch.setenv(KEY_NAME, "another-key-nobody-may-print")
    with pytest.raises(CorruptObjectError, match="its signature is not of the key") as caught:
        read_manifest(store, "group")
    assert "nobody-may-print" not in str(caught.value)


def test_files_that_were_changed_together_with_their_digest_are_refused(store: Store, with_key: None):
    """Whoever may write to the storage can make the digests fit, but not the signature."""
    publish(store, "group", {"a": b"bytes"}, {})
    document = written(store)
    store.write("group/a", b"other")
    document["files"]["a"] = {"sha256": hashlib.sha256(b"other").hexdigest(), "size_bytes": 5}
    rewrite(store, document)
    with pytest.raises(CorruptObjectError, match="its signature is not of the key"):
        read_manifest(store, "group")


@pytest.mark.parametrize("found", [None, 7, "", "ü"])
def test_a_signature_that_is_none_is_refused(store: Store, with_key: None, found: object):
    publish(store, "group", {"a": b"bytes"}, {})
    rewrite(store, written(store) | {FIELD: found})
    with pytest.raises(CorruptObjectError, match="sign"):
        read_manifest(store, "group")


def test_without_a_key_signed_groups_are_read(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_NAME, KEY)
    publish(store, "group", {"a": b"bytes"}, {"step": 3})
    monkeypatch.delenv(KEY_NAME)
    assert read_manifest(store, "group").about == {"step": 3}


def test_workers_are_given_the_key(with_key: None):
    assert forwarded(())[KEY_NAME] == KEY


def test_what_was_sealed_is_taken_with_the_key(with_key: None):
    found = sealed(b"bytes")
    assert found == SEAL + hmac.digest(KEY.encode(), SEAL + b"bytes", "sha256").hex().encode() + b"\nbytes"
    assert unsealed(found, "a") == b"bytes"
    assert unsealed(sealed(b""), "a") == b""


def test_what_was_sealed_is_taken_without_a_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_NAME, KEY)
    found = sealed(b"bytes")
    monkeypatch.delenv(KEY_NAME)
    assert unsealed(found, "a") == unsealed(sealed(b"bytes"), "a") == b"bytes"


def test_a_manifests_signature_is_none_for_a_file(store: Store, with_key: None):
    """One key signs both; nobody gets a pickle signed by having its bytes stand in a manifest."""
    publish(store, "group", {"a": b"bytes"}, {})
    document = written(store)
    signature = document.pop(FIELD)
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(CorruptObjectError, match="its signature is not of the key"):
        unsealed(SEAL + signature.encode() + b"\n" + text, "a")
