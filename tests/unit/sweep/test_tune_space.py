"""A sweep's space as Ray Tune's: what any searcher draws makes a run, and a grid is drawn in order."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.search import Searcher

from raylora.spec.sweeps.space import configurations, resolve
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.steering.trials import SweepTrials
from raylora.sweep.steering.tune_space import tune_scheduler, tune_searcher, tune_space
from tests.arch.interpreter import loaded_after
from tests.arch.source_tree import REPOSITORY
from tests.unit.sweep.drawn import RANGES, SPACE, drawn_by, made


def drawn(sweep: SweepSpec, num_at_once: int = 100) -> list[dict[str, Any]]:
    return drawn_by(tune_searcher(sweep, num_at_once), sweep)


@pytest.mark.parametrize("searcher", ["random", "optuna", "hyperopt", "bohb"])
def test_whatever_is_drawn_makes_a_run(searcher: str):
    more = {"scheduler": "hyperband"} if searcher == "bohb" else {}
    sweep = made(SPACE | RANGES, searcher=searcher, num_trials=24, **more)
    draws = drawn(sweep)
    assert len(draws) == 24
    assert drawn(sweep) == draws  # the seed decides
    specs = [SweepTrials(sweep, "sweep").repeats(draw, 0)[0].spec for draw in draws]
    assert {spec.lora_r for spec in specs} == {4, 8}
    assert all(spec.lora_alpha == 2 * spec.lora_r for spec in specs)
    assert {spec.lora_target_modules for spec in specs} == {"all-linear", ("q_proj", "v_proj")}
    assert {spec.lora_dropout for spec in specs if spec.lora_r == 4} == {0.0}
    assert 0.1 in {spec.lora_dropout for spec in specs}
    assert {spec.warmup_steps for spec in specs} == {0, 1, 2, 3}
    assert all(1e-5 <= spec.learning_rate <= 1e-3 for spec in specs)


def test_bohb_draws_the_same_from_what_it_was_told():
    """Its first draws come from a space with a seed, those of its model from numpy's own generator."""
    sweep = made(RANGES, searcher="bohb", scheduler="hyperband", num_trials=24)

    def draws() -> list[dict[str, Any]]:
        searcher, drawn_ = tune_searcher(sweep, 24), []
        assert isinstance(searcher, Searcher)
        searcher.set_search_properties(sweep.metric, sweep.mode, tune_space(sweep.space))
        for number in map(str, range(24)):
            drawn_.append(searcher.suggest(number))
            told = {"eval_loss": drawn_[-1]["weight_decay"], "hyperband_info": {"budget": 4}}
            searcher.on_trial_result(number, told)
            searcher.on_trial_complete(number, told)
        return drawn_

    assert draws() == draws()


def test_a_learning_searcher_draws_no_more_than_can_run():
    assert len(drawn(made(RANGES, searcher="optuna", num_trials=24), num_at_once=5)) == 5


@pytest.mark.parametrize("num_trials", [None, 3])
def test_a_grid_is_drawn_in_order_each_configuration_once(num_trials: int | None):
    sweep = made(SPACE, searcher="grid", num_trials=num_trials)
    expected = [resolve(sweep.space, point) for point in configurations(sweep.space)][:num_trials]
    assert len(expected) == (num_trials or 6)
    assert [resolve(sweep.space, draw) for draw in drawn(sweep)] == expected


def test_repeats_have_names_and_seeds_of_their_own():
    sweep = made(SPACE, searcher="grid", repeats=2, budget={"tokens": 1000}, report_steps=1)
    first, second = SweepTrials(sweep, "sweep").repeats(next(configurations(sweep.space)), 7)
    assert [first.run_id, second.run_id] == ["sweep-007-0", "sweep-007-1"]
    assert second.spec.seed == first.spec.seed + 1
    assert first.key == second.key
    assert first.max_tokens == 1000


def test_pbt_stays_within_the_ranges():
    space = {"learning_rate": {"loguniform": [1e-5, 1e-3]}, "lora_dropout": {"choice": [0.0, 0.1]}}
    pbt = tune_scheduler(made(space, scheduler="pbt", num_trials=4))
    assert pbt._custom_explore_fn({"learning_rate": 1.2e-3, "lora_dropout": 0.1}) == {
        "learning_rate": 1e-3,
        "lora_dropout": 0.1,
    }


@pytest.mark.parametrize("scheduler", ["fifo", "asha", "hyperband", "median", "pbt"])
def test_schedulers_count_what_the_budget_is_in(scheduler: str):
    space = {"learning_rate": {"loguniform": [1e-5, 1e-3]}}
    asked = {"scheduler": scheduler, "num_trials": 4, "budget": {"tokens": 1000}}
    assert getattr(tune_scheduler(made(space, **asked)), "_time_attr", "tokens") == "tokens"


def test_what_leases_load_is_light():
    loaded = loaded_after(["raylora.sweep.steering.host"], REPOSITORY)
    assert loaded & {"torch", "transformers", "mlflow", "peft", "datasets", "optuna"} == set()
