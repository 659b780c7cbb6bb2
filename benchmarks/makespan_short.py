"""`makespan` for 32 short trials."""

from __future__ import annotations

from typing import Any

from benchmarks.makespan import MOST_TURNS, measure_sweep
from benchmarks.rows import Material

__all__ = ["MOST_TURNS", "measure"]


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Run both sides.

    Args:
        material: What is trained on what.
        num_turns: One.
    """
    del num_turns
    return measure_sweep(material, "32 short trials")
