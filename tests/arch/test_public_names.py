"""What programs may lean on: the names of `raylora.api`, no more and no fewer than this list."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.arch.planted import plant
from tests.arch.source_tree import PACKAGE

PUBLIC = {
    *("RunSpec", "SweepSpec", "estimate", "inspect", "list_runs", "load_spec", "load_sweep"),
    *("preflight", "resume", "resume_sweep", "sweep", "train"),
}


def exported(module: Path) -> set[str]:
    """The literal ``__all__`` of a module."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return set(ast.literal_eval(node.value))
    return set()


def visible(module: Path) -> set[str]:
    """Names without an underscore that a module defines or imports at its top, beside ``annotations``."""
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")} - {"annotations"}


def test_public_names_are_the_listed_ones():
    assert exported(PACKAGE / "api.py") == PUBLIC
    assert visible(PACKAGE / "api.py") >= PUBLIC


def test_a_changed_face_is_found(tmp_path: Path):
    text = (
        "from __future__ import annotations\nimport os.path\nfrom json import load as read\n__all__ = ['read', 'f']\n"
    )
    package = plant(tmp_path, {"api.py": text + "def f(): ...\nclass _C: ...\nX = 1\n"})
    assert exported(package / "api.py") == {"read", "f"}
    assert visible(package / "api.py") == {"os", "read", "f", "X"}
    assert exported(package / "__init__.py") == set()
