from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylora.errors import InputError, StoreError, UnusableStoreError
from raylora.store import files
from raylora.store.blob import Store, open_store
from raylora.store.local import FolderStore
from tests.contract.store_suite import StoreSuite
from tests.unit.store.disks import close, mounted


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


class TestFolder(StoreSuite):
    pass


def test_a_check_removes_the_folders_it_made_and_no_others(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    open_store(str(tmp_path / "mine")).check_writable()
    open_store(str(tmp_path / "new" / "er")).check_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture(params=[errno.EPERM, errno.ENOTSUP])
def without_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no second name for a file."""

    def refuse(path: Path, target: Path) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.usefixtures("without_links")
class TestFolderWithoutLinks(StoreSuite):
    pass


@pytest.mark.usefixtures("without_links")
def test_without_links_a_disk_that_fails_half_way_leaves_no_part(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(path: Path) -> None:
        if path.name == "whole":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(UnusableStoreError, match="No space left on device"):
        store.create("whole", b"bytes")
    monkeypatch.undo()
    assert store.keys() == []
    assert list(tmp_path.rglob("*whole*")) == []
    store.create("whole", b"bytes")


def test_storage_that_lets_a_second_writer_in_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Careless(FolderStore):
        def create(self, key: str, data: bytes) -> None:
            self.write(key, data)

    FolderStore(tmp_path).check_writable()
    assert caplog.messages == []
    Careless(tmp_path).check_writable()
    assert "does not keep two writers apart" in caplog.messages[0]
    assert list(tmp_path.iterdir()) == []


def test_a_path_below_a_file_is_not_writable(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"file/store.*a file stands where a folder should.*storage\.uri"):
        open_store(str(tmp_path / "file" / "store")).check_writable()


def test_a_closed_disk_is_not_writable(tmp_path: Path):
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        close(disk)
        with pytest.raises(StoreError, match=r"disk/store.*Read-only.*storage\.uri"):
            open_store(str(disk / "store")).check_writable()


@pytest.mark.parametrize("way", ["write", "upload"])
def test_a_full_disk_is_said_and_leaves_the_old_object(tmp_path: Path, way: str):
    big = tmp_path / "big"
    big.write_bytes(bytes(2 << 20))
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        store = open_store(str(disk))
        store.write("object", b"old")
        with pytest.raises(UnusableStoreError, match=r"object: the disk is full"):
            store.write("object", big.read_bytes()) if way == "write" else store.upload(big, "object")
        assert store.read("object") == b"old"
        assert [path.name for path in disk.iterdir()] == ["object"]
        store.write("object", b"new")


def test_a_download_to_a_full_disk_leaves_no_part(tmp_path: Path, store: Store):
    store.write("object", bytes(2 << 20))
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        with pytest.raises(StoreError, match=r"disk/got: the disk is full"):
            store.download("object", disk / "got")
        assert list(disk.iterdir()) == []


def test_files_that_are_being_written_are_no_objects(store: Store, tmp_path: Path):
    store.write("d/a", b"1")
    (tmp_path / "store" / "d" / ".b.12345678.partial").write_bytes(b"half")
    assert store.keys() == ["d/a"]


def test_a_folder_that_goes_while_it_is_listed_has_no_keys(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another driver makes room for newer checkpoints."""
    store.write("runs/a/run.json", b"1")
    store.write("runs/b/run.json", b"1")
    going, scandir = tmp_path / "store" / "runs" / "b", os.scandir

    def meanwhile(folder: Path | str) -> Iterator[os.DirEntry[str]]:
        if Path(folder) == going:
            (going / "run.json").unlink()
            going.rmdir()
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", meanwhile)
    assert store.keys("runs") == ["runs/a/run.json"]
    assert not going.exists()


def test_a_folder_that_cannot_be_listed_is_said(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store.write("runs/a/run.json", b"1")

    def fail(folder: Path | str) -> Iterator[os.DirEntry[str]]:
        raise OSError(errno.EIO, "Input/output error", str(folder))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(StoreError, match=r"cannot list .*runs: .*Input/output error"):
        store.keys("runs")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "got nothing"),
        ("gs://bucket", "got 'gs://'.*allowed: a folder"),
        ("file://host/folder", "got 'file://'.*file:///folder"),
        ("s3://", "names no bucket"),
        ("s3://key:verysecret@bucket/x", "credentials do not belong in it.*AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_uri_that_names_no_store_is_refused(uri: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        open_store(uri)
    assert "verysecret" not in str(caught.value)


def test_a_file_uri_is_a_folder(tmp_path: Path):
    assert open_store(f"file://{tmp_path}/a%20b").uri == str(tmp_path / "a b")
