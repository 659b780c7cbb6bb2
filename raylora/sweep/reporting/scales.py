"""Where a knob's value stands along an axis: numbers by size, words side by side. Called by the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylora.sweep.reporting.effects import is_number, key_of
from raylora.sweep.reporting.words import labels, value_text

MAX_TICKS = 6
LOG_RATIO = 8
LOG_STEPS = ((1, 2, 5), (1, 3), (1,))
"""First digits of round numbers on a logarithmic axis, the most numbers first."""

MAX_LOG_TICKS = 4


@dataclass(frozen=True)
class Scale:
    """One axis from 0 to 1.

    Args:
        log: Whether numbers stand by their logarithm.
        low: Value at 0, or None for words.
        high: Value at 1.
        places: Place of each word by its `key_of`.
        ticks: Places and what is written there.
    """

    log: bool
    low: float | None
    high: float
    places: dict[str, float]
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: Any) -> float:
        """Return where a value stands."""
        if self.low is None:
            return self.places[key_of(value)]
        return _share(value, self.low, self.high, self.log)


def scale_of(values: Sequence[Any], drawn_by_ratio: bool = False) -> Scale:
    """Return the axis for the values of a knob or a metric.

    Args:
        values: One or more.
        drawn_by_ratio: Whether the knob was drawn by orders of magnitude, however close its values came out.
    """
    if not all(is_number(value) for value in values):
        short = labels(values)
        places = {key: (index + 0.5) / len(short) for index, key in enumerate(short)}
        return Scale(False, None, 0.0, places, tuple((places[key], label) for key, label in short.items()))
    low, high = float(min(values)), float(max(values))
    log = drawn_by_ratio or is_log(values)
    distinct = sorted(set(values))
    shown = distinct if len(distinct) <= MAX_TICKS else [_value(share / 4, low, high, log) for share in range(5)]
    ticks = tuple((_share(value, low, high, log), tick_text(value)) for value in shown)
    return Scale(log, low, high, {}, ticks)


def is_log(values: Sequence[float]) -> bool:
    """Return whether numbers span so much that only their ratios can be seen."""
    return min(values) > 0 and max(values) >= LOG_RATIO * min(values)


def log_ticks(low: float, high: float) -> list[float]:
    """Return a few round numbers of a range for a logarithmic axis, or its ends where hardly one lies inside.

    Args:
        low: Least value, above 0.
        high: Greatest value, above `low`.
    """
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    for steps in LOG_STEPS:
        round_ones = [float(f"{step}e{power}") for power in powers for step in steps]
        inside = [value for value in round_ones if low <= value <= high]
        if len(inside) <= MAX_LOG_TICKS:
            return inside if len(inside) > 1 else [low, high]
    return inside[:: -(-len(inside) // MAX_LOG_TICKS)]


def tick_text(value: float) -> str:
    """Return a number as it is written at an axis: few digits."""
    return value_text(value) if isinstance(value, int) else f"{value:.3g}"


def _share(value: float, low: float, high: float, log: bool) -> float:
    if low == high:
        return 0.5
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _value(share: float, low: float, high: float, log: bool) -> float:
    return low * (high / low) ** share if log else low + share * (high - low)
