"""Files are short, finished, and name no package index and no path of anybody's machine."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.arch.tracked import tracked_texts

MAX_LINES = 300
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX)\b")
PACKAGE_INDEX = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|registry\.npmjs\.org|deb\.debian\.org)\b|https?://\S*/simple\b|index-url"
)
# A container's own folders (/home/ray, /configs) are no machine's; a home, a work tree or an /opt is.
MACHINE_PATH = re.compile(r"(?<![\w.$}~/-])/(?:root|work|opt|tmp/scratch|home/(?!ray\b)\w+|Users/\w+)/")


def lines_with(pattern: re.Pattern[str], texts: Mapping[str, str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def too_long(texts: Mapping[str, str]) -> list[str]:
    return [f"{name}: {text.count(chr(10))} lines" for name, text in texts.items() if text.count("\n") > MAX_LINES]


def elsewhere() -> dict[str, str]:
    """All tracked texts but this one, which spells out what it looks for."""
    return {name: text for name, text in tracked_texts().items() if not name.endswith("arch/test_files.py")}


def test_files_are_short():
    assert too_long(tracked_texts("*.py")) == []


@pytest.mark.parametrize("pattern", [UNFINISHED, PACKAGE_INDEX, MACHINE_PATH], ids=["unfinished", "index", "path"])
def test_nothing_that_may_not_be_committed(pattern: re.Pattern[str]):
    assert lines_with(pattern, elsewhere()) == []


def test_a_long_file_is_found():
    assert too_long({"short.py": "x\n" * MAX_LINES, "long.py": "x\n" * (MAX_LINES + 1)}) == ["long.py: 301 lines"]


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (UNFINISHED, "x = 1  # TODO: later"),
        (UNFINISHED, "FIXME"),
        (PACKAGE_INDEX, "see https://pypi.org/project/raylora"),
        (PACKAGE_INDEX, "--extra-index-url https://example.org"),
        (PACKAGE_INDEX, f"https://mirror.example/{'simple'}/torch"),
        (MACHINE_PATH, "cache = '/root/.cache'"),
        (MACHINE_PATH, "sh /home/somebody/run.sh"),
        (MACHINE_PATH, f"PYTHONPATH=/{'opt'}/raylora"),
    ],
)
def test_a_line_that_may_not_be_committed_is_found(pattern: re.Pattern[str], line: str):
    assert lines_with(pattern, {"file": f"first\n{line}\n"}) == [f"file:2: {line}"]


@pytest.mark.parametrize("line", ["https://host/work/item", "a/root/b", "/home/ray/run", "s3://bucket/opt/x", "todo"])
def test_an_innocent_line_passes(line: str):
    assert [p for p in (UNFINISHED, PACKAGE_INDEX, MACHINE_PATH) if lines_with(p, {"file": line})] == []
