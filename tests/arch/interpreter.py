"""What a fresh interpreter has loaded after it imported some modules."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_PROGRAM = """
import importlib, json, sys
modules, absent = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(absent))  # None: not importable, and find_spec answers None
for module in modules:
    importlib.import_module(module)
print(json.dumps([name for name, module in sys.modules.items() if module is not None]))
"""


class ImportFailed(AssertionError):
    """The interpreter's own words."""


def loaded_after(modules: Iterable[str], path: Path, absent: Iterable[str] = ()) -> set[str]:
    """Import ``modules`` from ``path`` in a new interpreter where ``absent`` cannot be imported.

    Returns:
        Dotted names of everything it then has loaded.

    Raises:
        ImportFailed: An import failed.
    """
    argument = json.dumps([list(modules), list(absent)])
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, argument], cwd=path, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise ImportFailed(done.stderr)
    return set(json.loads(done.stdout.splitlines()[-1]))
