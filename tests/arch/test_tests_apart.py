"""No module of tests imports another one: what tests share lies beside them, in modules without tests."""

from __future__ import annotations

from pathlib import Path

from tests.arch.planted import plant
from tests.arch.source_tree import REPOSITORY, all_imports, module_paths, nearest_module


def imports_of_tests(package: Path) -> list[str]:
    modules = module_paths(package)
    return [
        str(found)
        for found in all_imports(package)
        if (nearest_module(found.target, modules) or "").rpartition(".")[2].startswith("test_")
    ]


def test_what_tests_share_is_no_test():
    assert imports_of_tests(REPOSITORY / "tests") == []


def test_imports_of_a_test_are_found(tmp_path: Path):
    files = {
        "test_a.py": "X = 1\n",
        "shared.py": "Y = 1\n",
        "test_b.py": "from raylora.shared import Y\nfrom raylora.test_a import X\n",
        "worker.py": "import raylora.test_a\n",
    }
    package = plant(tmp_path, files)
    assert [found.partition(" imports ")[2] for found in imports_of_tests(package)] == [
        "raylora.test_a.X",
        "raylora.test_a",
    ]
