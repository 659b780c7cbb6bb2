"""Results: medians and ratios of what turns measured, kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range of one measure over the turns."""
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median and range of ours over theirs, turn by turn: both sides of a turn met the same machine."""
    return summary([a / b for a, b in zip(ours, theirs, strict=True)])


def held_against(rates: Sequence[Mapping[str, Mapping[str, float]]], made: Sequence[float]) -> dict[str, Any]:
    """Rates of the machine's products over the turns, and how much of each a step reached in the same turn.

    Args:
        rates: Of each turn, as `products.rates` measures them.
        made: Operations a second of the step of each turn.
    """
    return {
        kernel: {
            shapes: {
                "flops_per_s": summary([turn[kernel][shapes] for turn in rates]),
                "step_reaches": ratios(made, [turn[kernel][shapes] for turn in rates]),
            }
            for shapes in rates[0][kernel]
        }
        for kernel in rates[0]
    }


def save(folder: Path, name: str, about: dict[str, Any], results: dict[str, Any]) -> Path:
    """Write a benchmark's result with the machine it was measured on.

    Args:
        folder: `RESULTS`, or another where the code is only tried.
        name: Of the benchmark.
        about: What was measured.
        results: What came out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    text = json.dumps({"benchmark": name, "machine": machine(), "about": about, "results": results}, indent=1)
    path.write_text(text + "\n")
    return path


def load(folder: Path, name: str) -> dict[str, Any] | None:
    """Read a result; ``None`` where it was not measured."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded
