"""What the code imports is what pyproject.toml asks for, and constraints.txt pins it at a version it allows."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.arch.planted import plant
from tests.arch.source_tree import PACKAGE, REPOSITORY, all_imports

# Asked for without an import statement, and who needs it.
UNIMPORTED = {
    "boto3": "MLflow's client and server put artifacts into buckets with it",
}

# Imported and not asked for: the part of a declared package, whose version that package chooses.
COMES_WITH = {
    "aiohttp": "s3fs",
    "annotated-types": "pydantic",
    "botocore": "s3fs",
    "mlflow-skinny": "mlflow",
    "mlflow-tracing": "mlflow",
    "pydantic-core": "pydantic",
    "tokenizers": "transformers",
}


def project() -> dict[str, list[Requirement]]:
    """Requirements by group: ``core`` and each extra."""
    table = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"core": table["dependencies"], **table["optional-dependencies"]}
    return {group: [Requirement(line) for line in lines] for group, lines in groups.items()}


def pins(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([\w.\-]+)==([\w.!]+)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def imported_distributions(package: Path) -> dict[str, str]:
    """Distribution and one place that imports it, for everything neither standard nor the package's own."""
    distributions = packages_distributions()
    found: dict[str, str] = {}
    for imported in all_imports(package):
        top = imported.target.split(".")[0]
        if top not in sys.stdlib_module_names and top != package.name:
            for name in distributions.get(top, [top]):
                found.setdefault(canonicalize_name(name), str(imported))
    return found


def undeclared(package: Path) -> list[str]:
    users = (group for group in project() if group != "dev")
    declared = {canonicalize_name(requirement.name) for group in users for requirement in project()[group]}
    return [
        where for name, where in imported_distributions(package).items() if COMES_WITH.get(name, name) not in declared
    ]


def test_what_is_imported_is_declared():
    assert undeclared(PACKAGE) == []


def test_what_is_declared_is_imported():
    core = {canonicalize_name(requirement.name) for requirement in project()["core"]}
    assert core - imported_distributions(PACKAGE).keys() == set(UNIMPORTED)


def test_an_undeclared_import_is_found(tmp_path: Path):
    package = plant(tmp_path, {"store/blob.py": "import json, pytest, torch, not_installed_anywhere"})
    assert [line.split()[-1] for line in undeclared(package)] == ["pytest", "not_installed_anywhere"]


def test_every_requirement_is_pinned_within_its_range():
    pinned = pins((REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
    for requirement in (requirement for group in project().values() for requirement in group):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), str(requirement)


@pytest.mark.parametrize("line", ["torch>=2", "torch @ https://example.org/torch.whl", "-e .", "torch==2.13.0+cpu"])
def test_a_line_that_is_no_pin_is_found(line: str):
    with pytest.raises(AssertionError):
        pins(f"ray==2.60.0\n{line}\n")


@pytest.mark.parametrize("requirement", [r for group in project().values() for r in group], ids=str)
def test_every_range_has_a_floor(requirement: Requirement):
    assert any(part.operator == ">=" for part in requirement.specifier), str(requirement)
