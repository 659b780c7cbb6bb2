"""Where a knob's value stands along an axis: numbers by size, words side by side. Called by the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylora.sweep.effects import is_number, key_of
from raylora.sweep.words import labels, value_text

MAX_TICKS = 6
LOG_RATIO = 8


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


def scale_of(values: Sequence[Any]) -> Scale:
    """Return the axis for the values of a knob or a metric.

    Args:
        values: One or more.
    """
    if not all(is_number(value) for value in values):
        short = labels(values)
        places = {key: (index + 0.5) / len(short) for index, key in enumerate(short)}
        return Scale(False, None, 0.0, places, tuple((places[key], label) for key, label in short.items()))
    low, high = float(min(values)), float(max(values))
    log = is_log(values)
    distinct = sorted(set(values))
    shown = distinct if len(distinct) <= MAX_TICKS else [_value(share / 4, low, high, log) for share in range(5)]
    ticks = tuple((_share(value, low, high, log), _tick(value)) for value in shown)
    return Scale(log, low, high, {}, ticks)


def is_log(values: Sequence[float]) -> bool:
    """Return whether numbers span so much that only their ratios can be seen."""
    return min(values) > 0 and max(values) >= LOG_RATIO * min(values)


def _share(value: float, low: float, high: float, log: bool) -> float:
    if low == high:
        return 0.5
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _value(share: float, low: float, high: float, log: bool) -> float:
    return low * (high / low) ** share if log else low + share * (high - low)


def _tick(value: float) -> str:
    return value_text(value) if isinstance(value, int) else f"{value:.3g}"
