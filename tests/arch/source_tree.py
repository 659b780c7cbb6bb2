"""The modules of a package and what each of them imports, read from the syntax tree: nothing is run.

Every architecture test gets its facts here; each of them is also run on a small planted tree.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "raylora"


@dataclass(frozen=True)
class Import:
    """One imported name: ``from ray import train`` in ``raylora.runtime.launch`` has the target ``ray.train``."""

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_paths(package: Path) -> dict[str, Path]:
    """Dotted name and file of every module of ``package``, a folder with the top package's name."""
    paths = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def all_imports(package: Path) -> list[Import]:
    """Every import in ``package``: at the top, inside functions, under TYPE_CHECKING and by a literal name."""
    return [found for module, path in module_paths(package).items() for found in _imports(module, path)]


def module_graph(package: Path) -> dict[str, set[str]]:
    """For each module of ``package``, the modules of ``package`` it imports by name."""
    modules = module_paths(package)
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for found in all_imports(package):
        target = nearest_module(found.target, modules)
        if target and target != found.module:
            graph[found.module].add(target)
    return graph


def nearest_module(target: str, modules: Mapping[str, Path]) -> str | None:
    """The module a dotted name lives in: its longest prefix that is one."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target or None


def _imports(module: str, path: Path) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        for target in _targets(node, package):
            yield Import(module, target, node.lineno)


def _targets(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        source = _absolute(node, package)
        return [f"{source}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args:
        function, name = node.func, node.args[0]
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
            return [str(name.value)]
    return []


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - (node.level - 1)]
    return ".".join([*parts, node.module] if node.module else parts)
