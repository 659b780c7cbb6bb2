"""Files of which `-m` leaves every test out, which are not imported then: it takes seconds for some."""

from __future__ import annotations

import ast
import re
from pathlib import Path

NOTHING_BUT_NOT = re.compile(r"not \w+( and not \w+)*")


def is_left_out(file: Path, asked: str) -> bool:
    """Whether a file's `pytestmark` has a mark that is not asked for.

    Args:
        file: Of tests.
        asked: What `-m` says; with anything but `not` and `and` in it, no file is.
    """
    if not NOTHING_BUT_NOT.fullmatch(asked):
        return False
    return not marks_of_all(file).isdisjoint(re.findall(r"not (\w+)", asked))


def marks_of_all(file: Path) -> set[str]:
    """Marks that every test of a file has by its `pytestmark`."""
    text = file.read_text(encoding="utf-8")
    if "\npytestmark" not in text:
        return set()
    return {mark for statement in ast.parse(text).body if _is_for_all(statement) for mark in _marks_in(statement)}


def _is_for_all(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark"


def _marks_in(statement: ast.stmt) -> set[str]:
    attributes = [node for node in ast.walk(statement) if isinstance(node, ast.Attribute)]
    return {node.attr for node in attributes if ast.unparse(node.value) == "pytest.mark"}
