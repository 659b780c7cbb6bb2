"""A package written for one test, so that a rule can be seen to fail."""

from __future__ import annotations

from pathlib import Path


def plant(folder: Path, files: dict[str, str]) -> Path:
    """Write ``files`` (path below the package: text) as the package ``raylora`` in ``folder`` and return its folder."""
    package = folder / "raylora"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text, encoding="utf-8")
    return package
