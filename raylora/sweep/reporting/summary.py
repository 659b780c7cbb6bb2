"""What the trials of a sweep say together: which configuration is best, by how much, and at what size.

A `SweepRecord` enters, a `Summary` leaves. Pure; called by the report, its pictures and the command line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from raylora.store.sweeps import SweepRecord, TrialRecord
from raylora.sweep.reporting.asked import Aim, aim_of
from raylora.sweep.reporting.effects import KnobEffect, key_of, knob_effects


@dataclass(frozen=True)
class Configuration:
    """One configuration of the sweep, as it was drawn once, with all its repeats.

    Args:
        trials: Its trials in order, the failed ones too.
        counted: Those of them with a result, in order; at least one.
        mean: Mean of the metric over `counted`.
        spread: Standard deviation over `counted`, of a sample; None for one alone.
        best: The one of `counted` with the best metric.
    """

    trials: tuple[TrialRecord, ...]
    counted: tuple[TrialRecord, ...]
    mean: float
    spread: float | None
    best: TrialRecord

    @property
    def config(self) -> Mapping[str, Any]:
        """The sampled fields."""
        return self.best.config

    @property
    def is_whole(self) -> bool:
        """Whether all that count trained to their end: what was stopped, or still runs, had less to become good in."""
        return all(trial.status == "succeeded" for trial in self.counted)

    def equals(self, other: Configuration) -> bool:
        """Return whether both were drawn with the same values: the same training twice, and no repeat of it."""
        return key_of(self.config) == key_of(other.config)


@dataclass(frozen=True)
class Summary:
    """What a sweep found.

    Args:
        aim: Metric and mode.
        luckiest: The trial with the best metric of all, whatever the repeats of its configuration say, and however far
            it trained; None where none has a result.
        ranking: Configurations with a result, those that trained to their end before the others, the best mean first.
        level: How many different ones cannot be told from the first: it, and those whose lag lies within the spread.
        effects: Every knob that was varied.
        front: Of those compared, the ones that none beats with as few trainable parameters, the smallest first.
    """

    aim: Aim
    luckiest: TrialRecord | None
    ranking: tuple[Configuration, ...]
    level: int
    effects: tuple[KnobEffect, ...]
    front: tuple[Configuration, ...]

    @property
    def compared(self) -> tuple[Configuration, ...]:
        """Configurations that trained to their end, the best first; all of them where none did."""
        return _compared(self.ranking)

    @property
    def winner(self) -> Configuration | None:
        """Of the configurations that are compared, the one with the best mean."""
        return self.compared[0] if self.compared else None

    @property
    def runner_up(self) -> Configuration | None:
        """The best of the others that are compared, unless it is the winner's own, drawn again."""
        return next((each for each in self.compared[1:] if not each.equals(self.compared[0])), None)

    @property
    def best_trial(self) -> TrialRecord | None:
        """Of the winning configuration, the repeat with the best metric; the one rule of who has won."""
        return self.winner.best if self.winner else None


def summarise(record: SweepRecord) -> Summary:
    """Compare the trials of a sweep; those that failed or were cancelled, or have no metric yet, do not count.

    Args:
        record: The sweep, over or not.
    """
    aim = aim_of(record)
    counted = [trial for trial in record.trials if counts(trial)]
    ranking = _ranking(record.trials, aim)
    return Summary(
        aim=aim,
        luckiest=_best(counted, aim) if counted else None,
        ranking=ranking,
        level=len({key_of(other.config) for other in _compared(ranking) if _level(ranking[0], other)}),
        effects=knob_effects(counted),
        front=_front(ranking, aim),
    )


def counts(trial: TrialRecord) -> bool:
    """Return whether a trial has a result to compare."""
    return trial.metric is not None and trial.status not in ("failed", "cancelled")


def metric_of(trial: TrialRecord) -> float:
    """Return the metric of a trial that counts."""
    assert trial.metric is not None
    return trial.metric


def joint_spread(first: Configuration, second: Configuration) -> float | None:
    """Return the root mean square of two spreads, or the one there is; None where neither was measured.

    Args:
        first: A configuration, repeated or not.
        second: The one it is compared with.
    """
    spreads = [each.spread for each in (first, second) if each.spread is not None]
    return math.sqrt(fmean(spread**2 for spread in spreads)) if spreads else None


def _level(first: Configuration, second: Configuration) -> bool:
    spread = joint_spread(first, second)
    return first is second or (spread is not None and abs(first.mean - second.mean) <= spread)


def _ranking(trials: Iterable[TrialRecord], aim: Aim) -> tuple[Configuration, ...]:
    groups: dict[int, list[TrialRecord]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        groups.setdefault(trial.draw, []).append(trial)
    found = [_configuration(group, aim) for group in groups.values() if any(map(counts, group))]
    return tuple(sorted(found, key=lambda each: (not each.is_whole, aim.better(each.mean))))


def _compared(configurations: Sequence[Configuration]) -> tuple[Configuration, ...]:
    return tuple(each for each in configurations if each.is_whole) or tuple(configurations)


def _configuration(trials: Sequence[TrialRecord], aim: Aim) -> Configuration:
    counted = tuple(trial for trial in trials if counts(trial))
    metrics = [metric_of(trial) for trial in counted]
    spread = stdev(metrics) if len(metrics) > 1 else None
    return Configuration(tuple(trials), counted, fmean(metrics), spread, _best(counted, aim))


def _best(trials: Sequence[TrialRecord], aim: Aim) -> TrialRecord:
    return min(trials, key=lambda trial: (aim.better(metric_of(trial)), trial.number))


def _front(ranking: Iterable[Configuration], aim: Aim) -> tuple[Configuration, ...]:
    sized = _compared([each for each in ranking if each.best.trainable_parameters is not None])
    front: list[Configuration] = []
    for each in sorted(sized, key=lambda each: (each.best.trainable_parameters, aim.better(each.mean))):
        if not front or aim.better(each.mean) < aim.better(front[-1].mean):
            front.append(each)
    return tuple(front)
