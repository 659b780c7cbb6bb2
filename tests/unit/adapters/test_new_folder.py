"""A new folder is whole or not there, and what is there already stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.adapters.new_folder import free_place, new_folder, writing
from raylora.errors import InputError, StoreError


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path):
    place = free_place(tmp_path / "deep" / "out")
    with new_folder(place) as partial:
        (partial / "file").write_text("whole")
        assert not place.exists()
    there = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert there == ["deep", "deep/out", "deep/out/file"]


def test_an_empty_folder_is_filled(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with new_folder(free_place(tmp_path / "out")) as partial:
        (partial / "file").write_text("whole")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_what_fails_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), new_folder(free_place(tmp_path / "deep" / "out")) as partial:
        (partial / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_was_taken_meanwhile_is_not_written_over(tmp_path: Path):
    place = free_place(tmp_path / "out")
    with pytest.raises(StoreError, match="cannot be written"), new_folder(place) as partial:
        (partial / "file").write_text("late")
        place.mkdir()
        (place / "file").write_text("early")
    assert (place / "file").read_text() == "early"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("word", "message"),
    [("full", "something is there already"), ("full/file", "something is there"), ("s3://b/out", "of this machine")],
)
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, word: str, message: str):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(InputError, match=message):
        free_place(Path(word) if "://" in word else tmp_path / word)


def test_a_folder_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"), new_folder(free_place(tmp_path / "file" / "out")):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_told_as_the_stores(tmp_path: Path):
    with pytest.raises(StoreError, match=r"--out .* cannot be written \(.*full"), writing(tmp_path):
        raise OSError(28, "the disk is full")
