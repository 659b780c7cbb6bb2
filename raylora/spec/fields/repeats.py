"""Slots for trials whose repeats train side by side. The sweep's planner and its packs call it."""

from __future__ import annotations


def whole_trials(num_slots: int, repeats: int) -> int:
    """Slots for all repeats of as many trials as there is room for, and of one at least.

    Args:
        num_slots: Slots that there could be, at least 1.
        repeats: Runs of a trial, at least 1.
    """
    return max(1, num_slots // repeats) * repeats
