"""Recorded curves, told again to Ray Tune as it is: an actor for each trial. Actors import this file; it is light."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.steering.tune_space import tune_scheduler, tune_searcher, tune_space


class Turnstile:
    """Lets trainables report in trial order, all that have a place once in a turn, as slots of a pack do.

    The first of those that are left have the places, whoever comes first: in which order Tune starts trials is luck.
    """

    def __init__(self, num_trials: int, num_places: int) -> None:
        self.left, self.num_places = set(range(num_trials)), num_places
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.line: list[int] = []
        self.out: int | None = None

    async def report(self, number: int) -> None:
        self.out = None if self.out == number else self.out
        turn = self.waiting[number] = asyncio.get_running_loop().create_future()
        self._next()
        await turn

    async def leave(self, number: int) -> None:
        self.left.discard(number)
        self.out = None if self.out == number else self.out
        self._next()

    def _next(self) -> None:
        placed = sorted(self.left)[: self.num_places]
        if self.out is None and not self.line and self.waiting.keys() >= set(placed):
            self.line = placed
        if self.out is None and self.line:
            self.out = self.line.pop(0)
            self.waiting.pop(self.out).set_result(None)


class Replay(tune.Trainable):
    """A trial with an actor of its own, which tells again what the trial of a pack told; it knows no more than that."""

    def setup(self, config: dict[str, Any], curves: dict[int, dict[int, float]], max_steps: int) -> None:
        self.curves, self.max_steps, self.turnstile = curves, max_steps, ray.get_actor("turnstile")
        self.number, self.steps = int(self.trial_id.split("_")[1]), 0

    def step(self) -> dict[str, Any]:
        ray.get(self.turnstile.report.remote(self.number))
        self.steps += 1
        return {
            "eval_loss": self.curves[self.number][self.steps],
            "steps": self.steps,
            "done": self.steps == self.max_steps,
        }

    def cleanup(self) -> None:
        ray.get(self.turnstile.leave.remote(self.number))


def told_again(sweep: SweepSpec, curves: dict[int, dict[int, float]], at_once: int, folder: Path) -> list[tune.Result]:
    """What becomes of a sweep's trials, in their order, on a Ray of its own.

    Args:
        sweep: Its searcher and scheduler are Tune's own.
        curves: Losses by step, by number of the trial.
        at_once: Trials that train at the same time.
        folder: For what Tune writes.
    """
    # As many cores, it seems, as trials: all of them come, and the turnstile alone says who has a place.
    num_cpus = len(curves)
    ray.init("local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        turnstile = ray.remote(num_cpus=0)(Turnstile).options(name="turnstile").remote(len(curves), at_once)
        replay = tune.with_parameters(Replay, curves=curves, max_steps=sweep.max_t)
        tuner = tune.Tuner(
            tune.with_resources(replay, {"CPU": 1}),
            param_space=tune_space(sweep.space),
            tune_config=tune.TuneConfig(
                metric=sweep.metric,
                mode=sweep.mode,
                num_samples=len(curves),
                search_alg=tune_searcher(sweep, at_once),
                scheduler=tune_scheduler(sweep),
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        found = sorted(tuner.fit(), key=lambda each: each.metrics["trial_id"])
        ray.kill(turnstile)
        return found
    finally:
        ray.shutdown()
