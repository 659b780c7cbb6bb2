"""Every module of the benchmarks can be imported: few are run by a test."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.slow
def test_every_module_imports():
    modules = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for path in sorted((REPOSITORY / "benchmarks").glob("*.py"))
        if path.stem not in ("__init__", "__main__")
    ]
    assert "benchmarks.solo" in modules
    for name in modules:
        import_module(name)
