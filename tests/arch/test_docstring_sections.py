"""A public function or method explains each of several arguments, and names the errors that it raises by itself.

An `@override` does so in the class it fulfils, a backend in its protocol, a command in the help texts of its options.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from raylora import errors
from tests.arch.definitions import overrides, public_definitions
from tests.arch.planted import plant
from tests.arch.source_tree import PACKAGE, module_paths


def without_args(package: Path) -> list[str]:
    """Functions and methods of two or more arguments that have no ``Args:`` for each of them, in their order."""
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in module_paths(package).items()}
    promised = {promise for tree in trees.values() for promise in promises(tree)}
    names = []
    for module, tree in trees.items():
        for name, node in public_definitions(tree.body, module):
            if isinstance(node, ast.ClassDef) or overrides(node) or is_command(node):
                continue
            arguments = argument_names(node)
            fulfils = (node.name, *arguments) in promised
            if len(arguments) > 1 and not fulfils and explained("Args", ast.get_docstring(node) or "") != arguments:
                names.append(name)
    return names


def promises(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """Name and arguments of each method that a protocol explains."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
            for method in node.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                    arguments = argument_names(method)
                    if explained("Args", ast.get_docstring(method) or "") == arguments:
                        yield (method.name, *arguments)


def without_raises(package: Path) -> list[str]:
    """Functions and methods that raise an error of their own making and have no ``Raises:`` that names its class."""
    names = []
    for module, path in module_paths(package).items():
        for name, node in public_definitions(ast.parse(path.read_text(encoding="utf-8")).body, module):
            if isinstance(node, ast.ClassDef) or overrides(node) or is_command(node):
                continue
            said = set(explained("Raises", ast.get_docstring(node) or ""))
            if not raised(node) <= said:
                names.append(name)
    return names


def raised(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Classes of `raylora.errors` that a function makes and raises."""
    made = (
        node.exc.func for node in ast.walk(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    )
    return {name.id for name in made if isinstance(name, ast.Name) and isinstance(getattr(errors, name.id, None), type)}


def argument_names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names in the order of the signature, but for ``self`` and ``cls``."""
    given = node.args
    listed = (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg)
    names = [argument.arg for argument in listed if argument]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def explained(section: str, docstring: str) -> list[str]:
    """Names that a section of a docstring, ``Args`` or ``Raises``, explains, in its order."""
    found = re.search(rf"^{section}:\n((?:(?: +.*)?\n?)*)", docstring, flags=re.MULTILINE)
    return re.findall(r"^    (\w+): \S", found[1], flags=re.MULTILINE) if found else []


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether typer makes a command of it: its arguments carry their help themselves."""
    given = (*node.args.args, *node.args.kwonlyargs)
    return any(argument.annotation and "typer." in ast.unparse(argument.annotation) for argument in given)


def test_functions_of_several_arguments_explain_each():
    assert without_args(PACKAGE) == []


def test_an_unexplained_argument_is_found(tmp_path: Path):
    text = '''"""Module."""
def good(a, *b, c, **d):
    """Do.

    Args:
        a: One.
            More of it.
        b: Two.

        c: Three.
        d: Four.

    Raises:
        e: No argument.
    """
def none(a, b):
    """Do."""
def fewer(a, b):
    """Do.

    Args:
        a: One.
    """
def swapped(a, *, b):
    """Do.

    Args:
        b: Two.
        a: One.
    """
class A:
    """Class."""
    def one(self, a):
        """Do."""
    def two(self, a, b=0):
        """Do."""
    @classmethod
    def three(cls, a, b):
        """Do."""
    @override
    def four(self, a, b): ...
    def five(self, a, b):
        """As promised."""
    def six(self, a, b):
        """Explained nowhere."""
class P(Protocol):
    """Protocol."""
    def five(self, a, b):
        """Do.

        Args:
            a: One.
            b: Two.
        """
    def six(self, a, b):
        """Do."""
def seven(a: Annotated[int, typer.Option(help="One.")], b):
    """Do."""
'''
    package = plant(tmp_path, {"__init__.py": '"""Package."""', "a.py": text})
    found = ["none", "fewer", "swapped", "A.two", "A.three", "A.six", "P.six"]
    assert without_args(package) == [f"raylora.a.{name}" for name in found]


def test_functions_say_what_they_raise():
    assert without_raises(PACKAGE) == []


def test_an_unsaid_error_is_found(tmp_path: Path):
    text = '''"""Module."""
def good():
    """Do.

    Raises:
        ModelError: Always.
    """
    raise ModelError("no")
def silent():
    """Do."""
    raise ModelError("no")
def other():
    """Do.

    Raises:
        DataError: Never.
    """
    raise ModelError("no") from None
def passes_on():
    """Do."""
    try:
        good()
    except ModelError as error:
        raise
    raise KeyError("no")
def joins():
    """Do."""
    raise together([])
'''
    package = plant(tmp_path, {"__init__.py": '"""Package."""', "a.py": text})
    assert without_raises(package) == ["raylora.a.silent", "raylora.a.other"]
