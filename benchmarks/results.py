"""Results, kept as JSON with the machine that they were measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def save(folder: Path, name: str, place: dict[str, Any], about: dict[str, Any], results: dict[str, Any]) -> Path:
    """Write a benchmark's result with the machine it was measured on.

    Args:
        folder: `RESULTS`, or another where the code is only tried.
        name: Of the benchmark.
        place: The machine, as it was before.
        about: What was measured.
        results: What came out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    text = json.dumps({"benchmark": name, "machine": place, "about": about, "results": results}, indent=1)
    path.write_text(text + "\n")
    return path


def load(folder: Path, name: str) -> dict[str, Any] | None:
    """Read a result; ``None`` where it was not measured."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded
