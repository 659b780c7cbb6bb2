"""A population in which trials report at unlike times, as under a budget of tokens, and fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raylora.sweep.steering.population import Population


@dataclass
class Search:
    """What a scheduler asks of Tune's controller, and how that obeys it."""

    trials: list[Trial]
    scheduler: Population
    search_alg: None = None
    live: set[Trial] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.scheduler.set_search_properties("loss", "min")
        self.live = set(self.trials)
        for trial in self.trials:
            self.scheduler.on_trial_add(self, trial)
            trial.status = Trial.RUNNING

    def get_trials(self) -> list[Trial]:
        return self.trials

    def get_live_trials(self) -> set[Trial]:
        return self.live

    def _schedule_trial_save(self, trial: Trial, result: object) -> None:
        """Nobody is cloned here."""

    def report(self, trial: Trial, tokens: int) -> None:
        trial.status = Trial.RUNNING
        result = {"tokens": tokens, "loss": 1.0, "training_iteration": 1}
        if self.scheduler.on_trial_result(self, trial, result) in (TrialScheduler.PAUSE, TrialScheduler.NOOP):
            trial.status = Trial.PAUSED

    def fail(self, trial: Trial) -> None:
        self.scheduler.on_trial_error(self, trial)
        trial.status = Trial.ERROR

    def goes_on(self) -> bool:
        return self.scheduler.choose_trial_to_run(self) is not None


@pytest.fixture
def search() -> Iterator[Search]:
    scheduler = Population(
        "tokens", perturbation_interval=50, hyperparam_mutations={"rate": [1, 2]}, synch=True, log_config=False
    )
    config: dict[str, Any] = {"rate": 1}
    yield Search([Trial("x", stub=True, config=dict(config), trial_id=name) for name in "abc"], scheduler)


def test_a_trial_that_all_others_waited_for_holds_nobody_up(search: Search):
    """The first has come less far since all were compared than trials are to be apart: what it told does nothing."""
    first, second, third = search.trials
    for trial, tokens in ((first, 110), (second, 100), (third, 105)):
        search.report(trial, tokens)
    search.report(third, 210)
    assert search.goes_on(), "the second has not reported yet"
    second.status = Trial.RUNNING
    search.fail(second)
    assert search.goes_on()


def test_where_only_such_ones_wait_they_go_on_all_the_same(search: Search):
    first, second, third = search.trials
    for trial, tokens in ((first, 110), (second, 100), (third, 105)):
        search.report(trial, tokens)
    third.status = Trial.RUNNING
    search.fail(second)
    search.fail(third)
    assert search.goes_on()
