"""Where Tune keeps a search, with a key: what somebody else put there is refused before it is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileSystem, FileType, copy_files

from raylora.errors import CorruptObjectError, UnusableStoreError
from raylora.store.signature import KEY_NAME
from raylora.sweep.steering.signed_files import check_written, tunes_files
from tests.unit.store.disks import fill, mounted

KEY = "a-key-nobody-may-print"
Change = Callable[[bytes], bytes]


@pytest.fixture(autouse=True)
def with_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What Tune copies to the store: files of its own and of trials, more than there are threads that copy."""
    folder = tmp_path / "made"
    for number in range(20):
        (folder / f"trial-{number}").mkdir(parents=True)
        (folder / f"trial-{number}" / "error.pkl").write_bytes(pickle.dumps(number))
    (folder / "state.json").write_bytes(b"{}" * 2_000_000)
    (folder / "empty").touch()
    return folder


@pytest.fixture
def kept(made: Path, tmp_path: Path) -> Path:
    files, folder = signed_files(tmp_path / "kept")
    files.create_dir(folder)
    copy_files(str(made), folder, destination_filesystem=files)
    return tmp_path / "kept"


def signed_files(folder: Path) -> tuple[FileSystem, str]:
    path, files = tunes_files(str(folder))
    return files, path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_was_kept_comes_back(made: Path, kept: Path, tmp_path: Path):
    files, folder = signed_files(kept)
    copy_files(folder, str(tmp_path / "back"), source_filesystem=files)
    assert contents(tmp_path / "back") == contents(made)
    assert contents(kept).keys() == contents(made).keys()
    with files.open_input_stream(f"{folder}/trial-7/error.pkl") as stream:
        assert pickle.loads(stream.readall()) == 7


def test_each_file_that_is_kept_is_signed(made: Path, kept: Path):
    plain = contents(made)
    for name, data in contents(kept).items():
        assert data.endswith(plain[name]) and len(data) > len(plain[name])
        assert KEY.encode() not in data


def test_it_is_what_tune_takes_for_a_folder(kept: Path):
    files, folder = signed_files(kept)
    assert {info.base_name for info in files.get_file_info(FileSelector(folder))} == {
        path.name for path in kept.iterdir()
    }
    assert files.get_file_info(f"{folder}/none").type == FileType.NotFound
    files.delete_file(f"{folder}/empty")
    files.delete_dir(f"{folder}/trial-0")
    assert not (kept / "empty").exists() and not (kept / "trial-0").exists()


def test_leases_get_the_same_in_their_own_process(kept: Path):
    files, folder = signed_files(kept)
    again = pickle.loads(pickle.dumps(files))
    assert again == files
    assert KEY.encode() not in pickle.dumps(files)
    with again.open_output_stream(f"{folder}/more") as stream:
        stream.write(b"more")
    with files.open_input_stream(f"{folder}/more") as stream:
        assert stream.readall() == b"more"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"planted", f"not signed, and {KEY_NAME} is set"),
        (lambda data: data[:-1] + b"?", "its signature is not of the key"),
        (lambda data: data[:-1], "its signature is not of the key"),
        (lambda data: data[:30], "its signature is not of the key"),
        (lambda data: data.replace(b"\n", b" ", 1), "its signature is not of the key"),
    ],
    ids=["unsigned", "changed", "cut", "no-signature", "no-end"],
)
def test_what_was_changed_is_refused_however_it_is_read(kept: Path, tmp_path: Path, change: Change, message: str):
    file = kept / "state.json"
    file.write_bytes(change(file.read_bytes()))
    files, folder = signed_files(kept)
    with pytest.raises(CorruptObjectError, match=message):
        files.open_input_stream(f"{folder}/state.json")
    with pytest.raises(CorruptObjectError, match=message):
        files.open_input_file(f"{folder}/state.json")
    with pytest.raises(CorruptObjectError, match=message):  # alone, as Tune does, and with the rest of the folder
        copy_files(f"{folder}/state.json", str(tmp_path / "alone"), source_filesystem=files)
    with pytest.raises(CorruptObjectError, match=message):
        copy_files(folder, str(tmp_path / "back"), source_filesystem=files)
    assert not (tmp_path / "alone").exists() and not (tmp_path / "back" / "state.json").exists()


def test_another_key_is_refused(kept: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_NAME, "another-key-nobody-may-print")
    files, folder = signed_files(kept)
    with pytest.raises(CorruptObjectError, match="its signature is not of the key") as caught:
        files.open_input_stream(f"{folder}/state.json")
    assert "nobody-may-print" not in str(caught.value)


def test_what_is_dropped_half_written_is_not_there(kept: Path):
    files, folder = signed_files(kept)
    stream = files.open_output_stream(f"{folder}/half")
    stream.write(b"half")
    del stream
    assert not (kept / "half").exists()


def test_without_a_key_files_are_as_tune_made_them(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(KEY_NAME)
    files, folder = signed_files(tmp_path / "plain")
    files.create_dir(folder)
    copy_files(str(made), folder, destination_filesystem=files)
    assert contents(tmp_path / "plain") == contents(made)


@pytest.mark.parametrize("key", [KEY, ""])
def test_what_a_full_disk_does_not_take_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
):
    """Tune writes the state of a search over the one before, under the same name."""
    monkeypatch.setenv(KEY_NAME, key)
    (tmp_path / "new").write_bytes(b"new" * 100_000)
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        files, folder = signed_files(disk)
        with files.open_output_stream(f"{folder}/state.json") as stream:
            stream.write(b"old" * 100_000)
        fill(disk)
        for _ in range(3):
            copy_files(str(tmp_path / "new"), f"{folder}/state.json", destination_filesystem=files)
        with pytest.raises(UnusableStoreError, match=r"cannot write .*/state.json: the disk is full.*raylora resume"):
            check_written()
        check_written()
        with files.open_input_stream(f"{folder}/state.json") as stream:
            assert stream.readall() == b"old" * 100_000
        assert {file.name for file in disk.iterdir()} == {"state.json", "rest"}


def test_what_a_killed_driver_left_half_written_is_no_file(kept: Path, tmp_path: Path):
    (kept / "trial-7" / ".error.pkl.0123abcd.partial").write_bytes(b"half")
    files, folder = signed_files(kept)
    copy_files(folder, str(tmp_path / "back"), source_filesystem=files)
    assert {file.name for file in (tmp_path / "back" / "trial-7").iterdir()} == {"error.pkl"}


def test_a_folder_that_cannot_be_made_is_heard_of(tmp_path: Path):
    (tmp_path / "kept").write_bytes(b"a file")
    files, folder = signed_files(tmp_path / "kept" / "inner")
    with pytest.raises(OSError, match="Not a directory"):
        files.create_dir(folder)
    with pytest.raises(UnusableStoreError, match=r"cannot make .*/kept/inner"):
        check_written()


@pytest.mark.parametrize("key", [KEY, ""])
def test_a_bucket_is_written_by_the_threads_that_copy(key: str, monkeypatch: pytest.MonkeyPatch):
    """Else they would wait for one another for ever; and the endpoint is still what the environment says."""
    monkeypatch.setenv(KEY_NAME, key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    path, files = tunes_files("s3://bucket/some/folder")
    assert path == "bucket/some/folder"
    _, (made_with,) = files.handler.files.__reduce__()
    assert made_with["background_writes"] is False
    assert made_with["endpoint_override"] == "http://127.0.0.1:9"
    assert made_with["secret_key"] is None
