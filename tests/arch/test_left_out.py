"""A file is not imported where `-m` leaves all of its tests out, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.left_out import is_left_out, marks_of_all

ALL = "import pytest\n\npytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]\n"
ONE = "import pytest\n\n@pytest.mark.slow\ndef test_it():\n    pytestmark = pytest.mark.cluster\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "test_it.py"


@pytest.mark.parametrize("asked", ["not slow", "not cluster and not slow", "not slow and not cluster"])
def test_a_file_of_which_all_is_left_out_is(file: Path, asked: str):
    file.write_text(ALL)
    assert marks_of_all(file) == {"slow", "timeout"}
    assert is_left_out(file, asked)


@pytest.mark.parametrize("asked", ["", "slow", "not cluster", "not slower", "not slow or cluster", "not (slow)"])
def test_what_may_be_asked_for_is_not(file: Path, asked: str):
    file.write_text(ALL)
    assert not is_left_out(file, asked)


def test_a_file_of_which_a_part_is_left_out_is_not(file: Path):
    file.write_text(ONE)
    assert marks_of_all(file) == set()
    assert not is_left_out(file, "not slow and not cluster")
