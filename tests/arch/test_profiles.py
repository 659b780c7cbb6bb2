"""Generated cases are the same at every run, unless whoever starts the tests asks for a search."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.arch.source_tree import REPOSITORY

PROGRAM = """
import json, tests.conftest
from hypothesis import settings
from tests.unit.hostile.reading import many
print(json.dumps([many.derandomize, many.max_examples, settings().derandomize]))
"""


@pytest.mark.parametrize(
    ("asked", "expected"),
    [({}, [True, 150, True]), ({"HYPOTHESIS_PROFILE": "search"}, [False, 1000, False])],
    ids=["as it is", "search"],
)
def test_a_search_is_asked_for_by_the_environment(asked: dict[str, str], expected: list[object]):
    env = {name: value for name, value in os.environ.items() if name != "HYPOTHESIS_PROFILE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=env | asked, capture_output=True, text=True, timeout=120
    )
    assert json.loads(done.stdout or "null") == expected, done.stderr
