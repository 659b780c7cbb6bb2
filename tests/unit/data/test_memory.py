"""Data larger than memory: ten times the rows take hardly more of it, when they are prepared and when they are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.data.small_tokenizer import saved, small_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

REPOSITORY = Path(__file__).parents[3]
MIB = 1 << 20
SMALL_BYTES, LARGE_BYTES = 20 * MIB, 200 * MIB
READ, UNREAD = "the model reads a question 0 1 2 3 " * 4, "x" * 8000
"""To tokenise is what takes time; the rest of a row is only carried along."""
SLACK_BYTES = 48 * MIB
"""A few numbers of each row are held, and allocators keep holes. What held the rows would take 180 MiB more."""


def measured(*words: object) -> tuple[int, int]:
    """Peak of a process of its own, and how much it did."""
    command = [sys.executable, "-m", "tests.unit.data.measured_rows", *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    peak_bytes, number = json.loads(ended.stdout)
    return peak_bytes, number


def test_rows_are_prepared_in_the_memory_of_a_few(tmp_path: Path):
    base = saved(small_tokenizer(), tmp_path / "base")

    def prepared(name: str, num_bytes: int) -> tuple[int, int]:
        file = tmp_path / name / "rows.jsonl"
        file.parent.mkdir()
        with file.open("w") as rows:
            while rows.tell() < num_bytes:
                rows.write(json.dumps({"text": f"{rows.tell()} {READ}", "unread": UNREAD}) + "\n")
        found = measured("preparing", file, base)
        file.unlink()
        return found

    (little, few), (much, many) = prepared("small", SMALL_BYTES), prepared("large", LARGE_BYTES)
    assert many > 9 * few
    assert much < little + SLACK_BYTES


def test_tokens_are_read_in_the_memory_of_a_few(tmp_path: Path):
    def read(name: str, num_bytes: int) -> tuple[int, int]:
        folder = tmp_path / name
        folder.mkdir()
        found = measured("reading", folder, num_bytes)
        (folder / "tokens.arrow").unlink()
        return found

    (little, few), (much, many) = read("small", SMALL_BYTES), read("large", LARGE_BYTES)
    assert many > 9 * few
    assert much < little + SLACK_BYTES
