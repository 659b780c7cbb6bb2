"""Whoever catches every error hands it on: raised again, kept for another thread, or told. None is dropped."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.arch.planted import plant
from tests.arch.source_tree import PACKAGE, module_paths

BROAD = {"Exception", "BaseException"}


def dropped(package: Path) -> list[str]:
    """Places where every error is caught and the caught one is nowhere used."""
    return [
        f"{module}:{node.lineno}"
        for module, path in module_paths(package).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _drops(node)
    ]


def _drops(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).endswith("suppress") and bool(BROAD & {ast.unparse(each) for each in node.args})
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = {"BaseException"} if node.type is None else {each.id for each in ast.walk(node.type) if _is_name(each)}
    inside = [each for line in node.body for each in ast.walk(line)]
    is_used = any(_is_name(each) and each.id == node.name for each in inside)
    is_raised = any(isinstance(each, ast.Raise) and each.exc is None for each in inside)
    return bool(caught & BROAD) and not (is_used or is_raised)


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def test_no_error_is_dropped():
    assert dropped(PACKAGE) == []


@pytest.mark.parametrize(
    ("handler", "num_found"),
    [
        ("except Exception:\n    pass", 1),
        ("except:\n    x = 0", 1),
        ("except (ValueError, BaseException) as error:\n    raise RuntimeError('something') from None", 1),
        ("except Exception as error:\n    log(error)", 0),
        ("except BaseException as error:\n    raise RuntimeError from error", 0),
        ("except BaseException:\n    close()\n    raise", 0),
        ("except OSError:\n    pass", 0),
    ],
)
def test_a_dropped_error_is_found(tmp_path: Path, handler: str, num_found: int):
    package = plant(tmp_path, {"a.py": f"try:\n    work()\n{handler}\n"})
    assert len(dropped(package)) == num_found


def test_a_suppressed_error_is_found(tmp_path: Path):
    files = {"a.py": "with contextlib.suppress(Exception):\n    work()\n", "b.py": "with suppress(OSError):\n    x()\n"}
    assert dropped(plant(tmp_path, files)) == ["raylora.a:1"]
