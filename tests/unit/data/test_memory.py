"""Data larger than memory: ten times the rows take hardly more of it, when they are prepared and when they are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raylora.data.sources.formats import FORMATS
from tests.unit.data.small_tokenizer import saved, small_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

REPOSITORY = Path(__file__).parents[3]
MIB = 1 << 20
SMALL_BYTES, LARGE_BYTES = 10 * MIB, 100 * MIB
READ, UNREAD = "the model reads a question 0 1 2 3 " * 4, "x" * 16_000
"""To tokenise is what takes time; the rest of a row is only carried along."""
SLACK_BYTES = 48 * MIB
"""A few numbers of each row are held, and allocators keep holes. What held the rows would take 90 MiB more."""


def measured(*words: object, program: str = "measured_rows") -> Any:
    """Peaks of a process of its own, and how much it did for each."""
    command = [sys.executable, "-m", f"tests.unit.data.{program}", *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def by_ending(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    """Peak and number of rows of a small and a large file of each ending."""
    folder = tmp_path_factory.mktemp("formats")
    return dict(measured(folder, SMALL_BYTES, LARGE_BYTES, program="measured_formats"))


@pytest.mark.parametrize("ending", FORMATS)
def test_files_of_every_ending_are_read_in_the_memory_of_a_few_rows(by_ending: dict[str, list[list[int]]], ending: str):
    (little, few), (much, many) = by_ending[ending]
    assert many > 9 * few > 0
    assert much < little + SLACK_BYTES


def test_rows_are_prepared_in_the_memory_of_a_few(tmp_path: Path):
    base = saved(small_tokenizer(), tmp_path / "base")

    def written(name: str, num_bytes: int) -> Path:
        file = tmp_path / name / "rows.jsonl"
        file.parent.mkdir()
        with file.open("w") as rows:
            while rows.tell() < num_bytes:
                rows.write(json.dumps({"text": f"{rows.tell()} {READ}", "unread": UNREAD}) + "\n")
        return file

    sizes = {"first": SMALL_BYTES, "small": SMALL_BYTES, "large": LARGE_BYTES}
    files = [written(name, num_bytes) for name, num_bytes in sizes.items()]
    _, (little, few), (much, many) = measured("preparing", base, *files)
    for file in files:
        file.unlink()
    assert many > 9 * few
    assert much < little + SLACK_BYTES


def test_tokens_are_read_in_the_memory_of_a_few(tmp_path: Path):
    _, (little, few), (much, many) = measured("reading", tmp_path, SMALL_BYTES, SMALL_BYTES, LARGE_BYTES)
    (tmp_path / "tokens.arrow").unlink()
    assert many > 9 * few
    assert much < little + SLACK_BYTES
