"""Globs over a store's keys: what they match, and that none is matched without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.data.sources import files
from raylora.data.sources.files import bucket_files
from raylora.errors import DataError


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket"
    for name in ("a.jsonl", "b.jsonl", "sub/a.jsonl", "sub/deep/a.jsonl", f"{'a' * 60}.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("?.jsonl", ["a.jsonl", "b.jsonl"]),
        ("[!a].jsonl", ["b.jsonl"]),
        ("*/*.jsonl", ["sub/a.jsonl"]),
        ("**/a.jsonl", ["a.jsonl", "sub/a.jsonl", "sub/deep/a.jsonl"]),
        ("sub/**", ["sub/a.jsonl", "sub/deep/a.jsonl"]),
    ],
)
def test_a_glob_is_matched(bucket: Path, tmp_path: Path, pattern: str, expected: list[str]):
    found = bucket_files(f"file://{bucket}/{pattern}", tmp_path / "downloads")
    assert [file.name.removeprefix(f"{bucket}/") for file in found] == expected


def test_a_glob_that_pythons_own_engine_never_ends_at_is_matched(bucket: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no such file, folder or match"):
        bucket_files(f"file://{bucket}/{'*a' * 25}b.jsonl", tmp_path / "downloads")


def test_a_glob_that_takes_too_long_is_refused(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "GLOB_TIMEOUT_S", 0.0)
    with pytest.raises(DataError, match=r"\*\.jsonl: cannot be matched \(regex timed out\)"):
        bucket_files(f"file://{bucket}/*.jsonl", tmp_path / "downloads")


def test_a_glob_that_is_too_long_is_refused(bucket: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot be matched \(it has 1,8\d\d characters"):
        bucket_files(f"file://{bucket}/{'*a' * 300}.jsonl", tmp_path / "downloads")


def test_a_glob_that_is_none_is_refused(bucket: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot be matched \(Invalid pattern.*Allowed: "):
        bucket_files(f"file://{bucket}/a**.jsonl", tmp_path / "downloads")
