"""Simulated trials under Ray Tune as it is, in actors of its own, which report when the same trials of a pack did."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.air.execution import FixedResourceManager
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.steering import tune_space as ours
from raylora.sweep.steering.tune_space import tune_scheduler, tune_searcher, tune_space
from raylora.sweep.steering.watch import TrialEvent
from tests.cluster.plain_line import Line
from tests.cluster.plain_trial import Simulated


class Decisions(tune.Callback):
    """Tells the line when Tune has taken a report in, with all that follows from it."""

    def __init__(self, line: Any) -> None:
        self.line, self.is_due = line, False

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **info: Any) -> None:
        self.is_due = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self.is_due and not any(trial.is_saving for trial in trials):
            self.is_due = False
            self.line.decided.remote()


def decided(
    sweep: SweepSpec, events: Iterable[TrialEvent], at_once: int, folder: Path, reuse_actors: bool
) -> list[tune.Result]:
    """What becomes of a sweep's trials, in their order, on the connected Ray, which has two cores.

    Args:
        sweep: Its searcher and scheduler are Tune's own, unchanged.
        events: What happened to the trials in a pack.
        at_once: Trials that train at the same time.
        folder: For what Tune writes.
        reuse_actors: Whether Tune keeps as many actors as it needs at once, which spares starts; schedulers that pause
            are then asked for the next trial at another time.
    """
    order = [(event.kind, event.number) for event in events if event.kind in ("start", "report")]
    line, numbers = ray.remote(num_cpus=0)(Line).remote(order), itertools.count()
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Simulated, sweep=sweep, line=line), {"CPU": 2 / at_once}),
        param_space=tune_space(sweep.space),
        tune_config=tune.TuneConfig(
            metric=sweep.metric,
            mode=sweep.mode,
            num_samples=sweep.num_configurations,
            search_alg=tune_searcher(sweep, at_once),
            scheduler=_unchanged_scheduler(sweep),
            reuse_actors=reuse_actors,
            trial_name_creator=lambda trial: str(next(numbers)),
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[Decisions(line)]),
    )
    with pytest.MonkeyPatch.context() as patch:
        # Of placement groups that wait for cores, Ray takes any; Tune's own budget takes the first, as packs do.
        patch.setattr(tune_controller, "PlacementGroupResourceManager", lambda: FixedResourceManager({"CPU": 2}))
        results = list(tuner.fit())
    ray.kill(line)
    assert [result.error for result in results] == [None] * sweep.num_configurations
    return sorted(results, key=lambda result: result.metrics["number"])


def _unchanged_scheduler(sweep: SweepSpec) -> TrialScheduler:
    """Tune's own, also where sweeps have a subclass of it, with the same arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "Population", PopulationBasedTraining)
        scheduler = tune_scheduler(sweep)
    assert type(scheduler).__module__.startswith("ray.tune.")
    return scheduler
