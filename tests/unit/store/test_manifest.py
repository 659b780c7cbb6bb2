from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pytest

from raylora.errors import CorruptObjectError, MissingObjectError
from raylora.store.blob import Store, open_store
from raylora.store.manifest import fetch, publish, read_manifest
from tests.unit.store.failing import FailingStore, PowerCut


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return tmp_path / "local"


def test_a_group_comes_back_with_what_is_about_it(store: Store, local: Path, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"from a file")
    uri = publish(store, "group", {"a.bin": b"bytes", "sub/b": tmp_path / "file"}, {"step": 3})
    assert uri == store.uri_of("group")
    manifest = fetch(store, "group", local)
    assert (local / "a.bin").read_bytes() == b"bytes"
    assert (local / "sub" / "b").read_bytes() == b"from a file"
    assert manifest.about == {"step": 3}
    assert manifest.files["a.bin"].sha256 == hashlib.sha256(b"bytes").hexdigest()
    assert manifest.files["sub/b"].size_bytes == 11


def test_a_group_without_its_manifest_is_not_there(store: Store, local: Path):
    store.write("group/a", b"1")
    with pytest.raises(MissingObjectError):
        fetch(store, "group", local)


@pytest.mark.parametrize("changes", range(8))
def test_wherever_a_second_writer_stops_readers_see_one_whole_group_or_none(store: Store, local: Path, changes: int):
    publish(store, "group", {"a": b"old", "b": b"old"}, {})
    cut = FailingStore(Path(store.uri), changes)
    try:
        publish(cut, "group", {"a": b"new", "b": b"new"}, {})
    except PowerCut:
        assert changes < 7
    with suppress(MissingObjectError):
        fetch(store, "group", local)
    seen = {path.read_bytes() for path in local.glob("*")}
    assert seen == ({b"old"} if changes <= 1 else {b"new"} if changes == 7 else set())


@pytest.mark.parametrize("damage", [b"other", b"longer than it was", b""])
def test_a_changed_file_is_found_and_not_left(store: Store, local: Path, damage: bytes):
    publish(store, "group", {"a": b"bytes"}, {})
    store.write("group/a", damage)
    with pytest.raises(CorruptObjectError, match=r"group: a is not what was written"):
        fetch(store, "group", local)
    assert list(local.iterdir()) == []


def test_a_missing_file_is_found(store: Store, local: Path):
    publish(store, "group", {"a": b"bytes"}, {})
    store.delete("group/a")
    with pytest.raises(CorruptObjectError, match="a is gone, though the manifest is there"):
        fetch(store, "group", local)


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[]",
        json.dumps({"format": 2, "about": {}, "files": {}}),
        json.dumps({"format": 1, "about": {}, "files": {"a": {"sha256": "x"}}}),
        json.dumps({"format": 1, "about": {}, "files": {"../../a": {"sha256": "x", "size_bytes": 1}}}),
    ],
)
def test_what_is_no_manifest_of_ours_is_said(store: Store, text: str):
    store.write("group/manifest.json", text.encode())
    with pytest.raises(CorruptObjectError, match=r"manifest\.json: "):
        read_manifest(store, "group")
