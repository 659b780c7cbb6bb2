"""A sweep's knobs, searcher and scheduler: Ray Tune's own. Called by whoever starts a sweep.

PBT has one change: it does not wait for trials that are over (`population.py`).

All knobs are drawn, and those whose condition does not hold are let go when the run is made: so every searcher can
draw every space. A grid is a list of points for Tune's basic generator.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher

from raylora.errors import InputError
from raylora.spec.fields.knobs import AnyKnob, Choice, Integer, LogUniform, Ratio, clip
from raylora.spec.sweeps.space import configurations
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.steering.draws import is_limited
from raylora.sweep.steering.population import Population

NEEDS = {"optuna": ("optuna", "sweep"), "hyperopt": ("hyperopt", "sweep"), "bohb": ("hpbandster", "bohb")}
"""Searchers, each with the module it needs and the extra of raylora that brings it."""

ASHA_FACTOR, HYPERBAND_FACTOR = 4, 3
"""Ray Tune's own: one trial in so many goes on."""


def tune_space(space: Mapping[str, AnyKnob]) -> dict[str, Any]:
    """Return Tune's domains by knob; nothing is drawn for a ratio."""
    return {name: _domain(knob) for name, knob in space.items() if not isinstance(knob, Ratio)}


def tune_searcher(sweep: SweepSpec, num_at_once: int) -> SearchAlgorithm | Searcher:
    """Return Tune's searcher.

    One that learns draws no more trials than `num_at_once` before one of them is over, so that every further draw knows
    what came before. A pack that measures that fewer slots are faster does not lower this: the first draws are made
    while its workers load, and all that it would spare are the draws beyond its slots, which wait at the desk.

    Args:
        sweep: As asked.
        num_at_once: Trials that have slots at the same time, by the plan.

    Raises:
        InputError: The searcher's package is not installed.
    """
    if sweep.searcher == "grid":
        points = list(itertools.islice(configurations(sweep.space), sweep.num_configurations))
        return BasicVariantGenerator(points_to_evaluate=points, random_state=sweep.seed)
    if sweep.searcher == "random":
        return BasicVariantGenerator(random_state=sweep.seed)
    searcher = _learning_searcher(sweep)
    return ConcurrencyLimiter(searcher, num_at_once) if is_limited(sweep) else searcher


def tune_scheduler(sweep: SweepSpec) -> TrialScheduler:
    """Return Tune's scheduler; it counts steps or tokens."""
    time_attr, max_t = sweep.time_attr, sweep.max_t or 0  # only fifo goes without a budget
    match sweep.scheduler:
        case "fifo":
            return FIFOScheduler()
        case "asha":
            factor = sweep.reduction_factor or ASHA_FACTOR
            return ASHAScheduler(time_attr, max_t=max_t, grace_period=sweep.first_stop, reduction_factor=factor)
        case "hyperband":
            kind = HyperBandForBOHB if sweep.searcher == "bohb" else HyperBandScheduler
            return kind(time_attr, max_t=max_t, reduction_factor=sweep.reduction_factor or HYPERBAND_FACTOR)
        case "median":
            return MedianStoppingRule(
                time_attr, grace_period=sweep.first_stop, min_samples_required=sweep.min_samples_required
            )
        case "pbt":
            return _pbt(sweep)


def _domain(knob: AnyKnob) -> Any:
    if isinstance(knob, Choice):
        return tune.choice(list(knob.options))
    if isinstance(knob, Integer):
        low, high = knob.int
        return tune.randint(low, high + 1)
    if isinstance(knob, LogUniform):
        return tune.loguniform(*knob.loguniform)
    if isinstance(knob, Ratio):
        raise TypeError("nothing is drawn for a ratio")
    return tune.uniform(*knob.uniform)


def _learning_searcher(sweep: SweepSpec) -> Searcher:
    module, extra = NEEDS[sweep.searcher]
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"searcher: {sweep.searcher} needs the package {module}; run pip install 'raylora[{extra}]', or use "
            "searcher: random"
        )
    # Imported here: each of them loads its package, which may not be there.
    if sweep.searcher == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return OptunaSearch(seed=sweep.seed)
    if sweep.searcher == "hyperopt":
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(random_state_seed=sweep.seed)
    from ray.tune.search.bohb import TuneBOHB

    np.random.seed(sweep.seed)  # its seed is for the first draws; its model draws from numpy's own generator
    return TuneBOHB(seed=sweep.seed)


def _pbt(sweep: SweepSpec) -> Population:
    """Population-based training in step: slots of a pack report one after another at the same step.

    Left asynchronous it would hold a trial's new loss against what the trials behind it in the line had one interval
    before, and the last in the line would always seem the best.
    """
    knobs = {name: knob for name, knob in sweep.space.items() if not isinstance(knob, Ratio)}

    def within_ranges(config: dict[str, Any]) -> dict[str, Any]:
        return config | {name: clip(knob, config[name]) for name, knob in knobs.items()}

    random.seed(sweep.seed)  # it draws from Python's and numpy's own generators
    np.random.seed(sweep.seed)
    return Population(
        sweep.time_attr,
        perturbation_interval=sweep.between_perturbations,
        hyperparam_mutations={
            name: list(knob.options) if isinstance(knob, Choice) else _domain(knob) for name, knob in knobs.items()
        },
        quantile_fraction=sweep.quantile_fraction,
        resample_probability=sweep.resample_probability,
        custom_explore_fn=within_ranges,
        log_config=False,
        synch=True,
    )
