"""Medians and ratios of what turns measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any


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
