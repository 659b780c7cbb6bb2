"""How many trials of a sweep are drawn at once: those drawn together know nothing of each other.

A sweep enters, a number leaves: the plan gives packs slots for so many, and the launcher limits the searcher to them.
"""

from __future__ import annotations

import math

from raylora.spec.sweeps.sweep import SweepSpec

LEARNS = ("optuna", "hyperopt", "bohb")
"""Searchers that draw by what was reported before."""

ROUNDS, LEAST = 4, 2
"""A searcher that learns draws its trials in so many rounds at least, and so many in one: with all of them in one round
it would draw by chance."""


def is_limited(sweep: SweepSpec) -> bool:
    """Whether the searcher draws no more trials than can have slots.

    HyperBand pauses trials, which would count: with it only BOHB is limited, which knows of pauses.

    Args:
        sweep: As asked.
    """
    return sweep.searcher in LEARNS and (sweep.scheduler != "hyperband" or sweep.searcher == "bohb")


def draws_at_once(sweep: SweepSpec) -> int:
    """Trials, repeats not counted, that may be drawn and not over at the same time, where there is room for them.

    Args:
        sweep: Its `slots` are taken at their word: whoever sets them has as many.
    """
    everything = sweep.num_configurations
    # HyperBand fills its brackets with trials that are paused, and a limit would count them.
    if sweep.slots is not None or sweep.scheduler == "hyperband" or not is_limited(sweep):
        return everything
    return min(everything, max(LEAST, math.ceil(everything / ROUNDS)))
