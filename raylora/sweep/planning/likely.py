"""Runs like those that will come, before a searcher has drawn any: a grid's first, and draws by chance of other spaces.

A sweep enters; runs leave. The launcher starts the pack of one of them ahead, and packs measure by them how many slots
are fastest.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from raylora.errors import InputError
from raylora.spec.fields.knobs import Choice, Integer, LogUniform, Ratio, Uniform
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.space import configurations
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import run_of, trial_spec
from raylora.store.sweeps import TrialRecord
from raylora.sweep.steering.trials import SweepTrials

NUM_DRAWN = 32
"""Enough to tell what is likely; each takes some milliseconds."""


def likely_runs(sweep: SweepSpec) -> list[RunSpec]:
    """Return the first runs of a grid, in order; of another space as many that are drawn by chance, from its seed.

    Args:
        sweep: As asked.
    """
    found: list[RunSpec] = []
    for sampled in itertools.islice(_draws(sweep), NUM_DRAWN):
        with suppress(InputError):  # a draw that makes no run is a trial that fails by itself
            found.append(trial_spec(sweep, sampled))
    return found


def first_run(sweep: SweepSpec, trials: Sequence[TrialRecord]) -> RunSpec | None:
    """Return a run whose pack some trial will want, as far as that is known before the searcher has drawn any.

    Args:
        sweep: As asked.
        trials: So far, of a sweep that goes on.

    Returns:
        Of a sweep that goes on the first trial that is not over, of a grid its first, of another space a run that
        shares its pack with most. None where no pack is likely to be wanted: all trials are over, or their packs are
        as different as their draws.
    """
    if trials:
        return next(_left(sweep, trials), None)
    likely = likely_runs(sweep)
    if sweep.searcher == "grid":
        return next(iter(likely), None)
    keys = [SweepTrials.key(run) for run in likely]
    for key, count in Counter(keys).most_common(1):
        if count > 1 and count * sweep.num_configurations >= len(keys):
            return likely[keys.index(key)]
    return None


def _left(sweep: SweepSpec, trials: Sequence[TrialRecord]) -> Iterator[RunSpec]:
    for trial in trials:
        if not trial.is_over:
            with suppress(InputError):
                yield run_of(sweep, trial.config, trial.repeat)


def _draws(sweep: SweepSpec) -> Iterator[dict[str, Any]]:
    if sweep.searcher == "grid":
        yield from itertools.islice(configurations(sweep.space), sweep.num_configurations)
        return
    chance = random.Random(sweep.seed)
    while True:
        yield {name: _drawn(knob, chance) for name, knob in sweep.space.items() if not isinstance(knob, Ratio)}


def _drawn(knob: Choice | Integer | LogUniform | Uniform, chance: random.Random) -> Any:
    if isinstance(knob, Choice):
        return chance.choice(knob.options)
    if isinstance(knob, Integer):
        return chance.randint(*knob.int)
    if isinstance(knob, LogUniform):
        low, high = knob.loguniform
        return math.exp(chance.uniform(math.log(low), math.log(high)))
    return chance.uniform(*knob.uniform)
