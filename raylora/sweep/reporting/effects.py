"""What each knob did to the metric: means for words, a rank correlation for numbers.

Trials with a metric enter, one `KnobEffect` a varied knob leaves. Pure; called by the summary.

What is said of one knob is averaged over whatever the others were: a searcher that walks toward good values mixes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation, fmean
from typing import Any

from raylora.store.sweeps import TrialRecord


@dataclass(frozen=True)
class KnobEffect:
    """One knob against the metric.

    Args:
        name: Dotted field of the run.
        points: Value and metric of each trial that has the knob, in order of trials.
        numeric: Whether all values are numbers.
        means: Each distinct value, its mean metric and its number of trials; numbers ascending, words as they came.
        rank_correlation: Spearman's, from -1 to 1; None for words, or where the metric is everywhere the same.
    """

    name: str
    points: tuple[tuple[Any, float], ...]
    numeric: bool
    means: tuple[tuple[Any, float, int], ...]
    rank_correlation: float | None


def knob_effects(trials: Sequence[TrialRecord]) -> tuple[KnobEffect, ...]:
    """Return the effect of every knob with two values or more.

    Args:
        trials: Trials that have a metric.
    """
    effects = []
    for name in knobs_of(trials):
        points = tuple((t.config[name], t.metric) for t in trials if name in t.config and t.metric is not None)
        if len({key_of(value) for value, _ in points}) > 1:
            effects.append(_effect(name, points))
    return tuple(effects)


def knobs_of(trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Return all fields that any trial sampled, in the order in which they first come."""
    return tuple(dict.fromkeys(name for trial in trials for name in trial.config))


def varied_knobs(trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Return the fields in which trials differ, absence included."""
    return tuple(
        name
        for name in knobs_of(trials)
        if len({key_of(trial.config[name]) if name in trial.config else None for trial in trials}) > 1
    )


def is_number(value: Any) -> bool:
    """Return whether a value is a number; true and false are words."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def key_of(value: Any) -> str:
    """Return a text that is equal for equal values of a knob."""
    return json.dumps(value, sort_keys=True)


def _effect(name: str, points: tuple[tuple[Any, float], ...]) -> KnobEffect:
    numeric = all(is_number(value) for value, _ in points)
    groups: dict[str, list[tuple[Any, float]]] = {}
    for value, metric in points:
        groups.setdefault(key_of(value), []).append((value, metric))
    means = [(group[0][0], fmean(metric for _, metric in group), len(group)) for group in groups.values()]
    if numeric:
        means.sort(key=lambda mean: mean[0])
    return KnobEffect(name, points, numeric, tuple(means), _rank_correlation(points) if numeric else None)


def _rank_correlation(points: Sequence[tuple[float, float]]) -> float | None:
    values, metrics = zip(*points, strict=True)
    try:
        return correlation(_ranks(values), _ranks(metrics)) if len(points) > 2 else None
    except StatisticsError:  # the metric is the same everywhere
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the place of each value among all, from 1; equal values share the mean of their places."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered, start=1)))}
    return [first[value] + (ordered.count(value) - 1) / 2 for value in values]
