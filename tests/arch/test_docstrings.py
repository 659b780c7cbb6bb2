"""Every public module, class, function and method says what it does; an `@override` says it in the class it fulfils."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.arch.definitions import overrides, public_definitions
from tests.arch.planted import plant
from tests.arch.source_tree import PACKAGE, module_paths


def undocumented(package: Path) -> list[str]:
    names = []
    for module, path in module_paths(package).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            names.append(module)
        for name, node in public_definitions(tree.body, module):
            if not ast.get_docstring(node) and not overrides(node):
                names.append(name)
    return names


def test_public_things_have_docstrings():
    assert undocumented(PACKAGE) == []


def test_a_missing_docstring_is_found(tmp_path: Path):
    text = '''"""Module."""
class A:
    """Class."""
    def f(self): ...
    @override
    def g(self): ...
    def _h(self): ...
async def i(): ...
'''
    package = plant(tmp_path, {"__init__.py": '"""Package."""', "a.py": text, "b.py": ""})
    assert undocumented(package) == ["raylora.a.A.f", "raylora.a.i", "raylora.b"]
