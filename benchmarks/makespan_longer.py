"""`makespan` for 16 longer trials."""

from __future__ import annotations

from functools import partial

from benchmarks.makespan import MOST_TURNS, measure_sweep

__all__ = ["MOST_TURNS", "measure"]

measure = partial(measure_sweep, "16 longer trials")
