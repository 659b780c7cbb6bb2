"""Ray Tune's searchers and schedulers over slots of packs decide what Tune's own, unchanged, decide over actors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler, pbt
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from raylora.spec.packing import pack_key
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.steering.drive import TrialOutcome
from raylora.sweep.steering.trials import SweepTrials
from raylora.sweep.steering.tune_space import NEEDS, tune_scheduler, tune_searcher, tune_space
from tests.cluster.plain_simulated import decided
from tests.cluster.simulated_packs import MAX_STEPS, Stage, made, ray_of_two_cores, stage
from tests.unit.sweep.simulated_pack import SimulatedPack, loss, quality
from tests.unit.sweep.simulated_trials import SimulatedTrials

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

RANKS = {"choice": [4, 8, 16]}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    yield from ray_of_two_cores()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as stage_:
        yield stage_


def test_optuna_and_asha_steer_24_trials_on_8_slots(here: Stage):
    for number in (0, 1):
        here.open_pack(number, 4)
    searcher = ConcurrencyLimiter(OptunaSearch(seed=0), 8)
    outcomes = here.drive(here.search(24, 8, searcher=searcher))
    assert [outcome.number for outcome in outcomes] == list(range(24))
    assert {outcome.status for outcome in outcomes} == {"succeeded", "stopped"}
    for outcome in outcomes:
        steps = [result["steps"] for result in here.reports(outcome.number)]
        assert steps == list(range(1, len(steps) + 1))
        assert outcome.result["steps"] == len(steps)
        assert (outcome.status == "succeeded") == (len(steps) == MAX_STEPS)
    best = min(outcomes, key=lambda outcome: outcome.result["eval_loss"])
    assert best.result["repeats"][0]["adapter_uri"] == f"sweep-{best.number}-0/adapter"
    packs = here.close()
    assert all(pack.most_slots == 4 and pack.slots == {} for pack in packs.values())


def ran(sweep: SweepSpec, folder: Path, at_once: int) -> tuple[Stage, list[TrialOutcome], SimulatedPack]:
    """What came of a sweep on one pack."""
    with stage(folder, SweepTrials(sweep, "sweep")) as here:
        here.open_pack(0, at_once, key=pack_key(sweep.run))
        search = here.search(
            sweep.num_configurations,
            at_once,
            space=tune_space(sweep.space),
            searcher=tune_searcher(sweep, at_once),
            scheduler=tune_scheduler(sweep),
        )
        outcomes = here.drive(search)
        return here, outcomes, here.close()[0]


def made_for(searcher: str, scheduler: str, num_trials: int) -> SweepSpec:
    """A sweep in which the scheduler has something to decide, with as few starts of actors as that takes."""
    match searcher, scheduler:
        case "grid", _:
            return made(searcher, scheduler, num_trials, learning_rate={"choice": [1e-4, 3e-4, 1e-3]}, lora_r=RANKS)
        case "bohb", _:  # a model of one knob takes the fewest reports
            return made(searcher, scheduler, num_trials, budget={"steps": 4})
        case "hyperopt", _:
            return made(searcher, scheduler, num_trials, budget={"steps": 2}, lora_r=RANKS)
        case _, "hyperband":
            return made(searcher, scheduler, num_trials, budget={"steps": 4}, lora_r=RANKS)
        case _, "pbt":
            return made(searcher, scheduler, num_trials).model_copy(update={"perturbation_interval": 8})
    return made(searcher, scheduler, num_trials, lora_r=RANKS)


def drawn_blindly(sweep: SweepSpec) -> list[dict[str, Any]]:
    """What a searcher draws that is never told how a trial went."""
    searcher = tune_searcher(sweep, 1)
    assert isinstance(searcher, Searcher)
    searcher.set_search_properties(sweep.metric, sweep.mode, tune_space(sweep.space))
    drawn = []
    for number in map(str, range(sweep.num_configurations)):
        drawn.append(searcher.suggest(number))
        searcher.on_trial_complete(number)
    return drawn


@pytest.mark.parametrize(
    ("searcher", "scheduler", "num_trials"),
    [
        ("grid", "fifo", 6),
        ("optuna", "asha", 12),
        ("hyperopt", "asha", 22),  # the first 20 are drawn by chance
        ("random", "median", 8),
        ("random", "hyperband", 6),
        ("bohb", "hyperband", 6),
        ("random", "pbt", 3),
    ],
)
def test_tune_decides_what_it_decides_over_actors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searcher: str, scheduler: str, num_trials: int
):
    sweep = made_for(searcher, scheduler, num_trials)
    monkeypatch.setattr(pbt, "random", Random(0))  # the generator of all Python, from which others draw, too
    here, packed, pack = ran(sweep, tmp_path, at_once=2)
    monkeypatch.setattr(pbt, "random", Random(0))
    plain = decided(sweep, here.events, 2, tmp_path / "plain", reuse_actors=scheduler not in ("hyperband", "pbt"))
    drawn = [dict(outcome.sampled) for outcome in packed]
    assert drawn == [each.config for each in plain]
    if searcher in NEEDS:
        assert drawn != drawn_blindly(sweep), "as if it had not been told of any trial"
    begun = {event.number: event.sampled for event in reversed(here.events) if event.kind == "start"}
    assert (drawn != [begun[number] for number in range(num_trials)]) == (scheduler == "pbt")
    assert [outcome.result["steps"] for outcome in packed] == [each.metrics["steps"] for each in plain]
    losses = [outcome.result["eval_loss"] for outcome in packed]
    assert losses == pytest.approx([each.metrics["eval_loss"] for each in plain], rel=1e-12)
    statuses = {outcome.status for outcome in packed}
    assert statuses == {"succeeded"} | (set() if scheduler in ("fifo", "pbt") else {"stopped"})
    for outcome in packed:
        # Whatever was paused went on from where it was.
        steps = [result["steps"] for result in here.reports(outcome.number)]
        assert steps == list(range(1, len(steps) + 1))
    # Median stopping pauses trials until there are enough to judge by.
    paused = any(line.startswith("save") for line in pack.log)
    assert paused == any(event.kind == "pause" for event in here.events)
    assert paused == any(admit.start_from for admit in pack.admitted) == (scheduler not in ("fifo", "asha"))


def test_pbt_clones_the_state_of_a_better_trial(tmp_path: Path):
    here, outcomes, pack = ran(made("random", "pbt", 4), tmp_path, at_once=4)
    assert {outcome.status for outcome in outcomes} == {"succeeded"}
    again = [admit for admit in pack.admitted if admit.start_from]
    # Trials wait for each other before they are compared: all go on from a saved slot, some from another's.
    assert any(not Path(admit.start_from).stem.startswith(f"trial{admit.trial}-") for admit in again)
    for admit in again:
        step = Path(admit.start_from).stem.rpartition("-")[2]
        state = json.loads(Path(admit.start_from).read_text())
        after = [
            event.result["eval_loss"]
            for event in here.events
            if (event.kind, event.number) == ("report", admit.trial)
            and event.result["steps"] == int(step) + 1
            and event.sampled["learning_rate"] == admit.spec.learning_rate
        ]
        assert after == [loss(state["progress"] + quality(admit.spec))], admit


@pytest.mark.parametrize("scheduler", ["median", "hyperband", "pbt"])
def test_schedulers_that_pause_wait_for_no_trial_that_failed(tmp_path: Path, scheduler: str):
    """Above a dropout of 0.9 a slot fails at its second step, or whenever it is given that much."""
    asked = made("random", scheduler, 8, lora_dropout={"uniform": [0.8, 0.97]})
    _, outcomes, _ = ran(asked, tmp_path, at_once=4)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert 2 < len(failed) < 8
    assert {outcome.status for outcome in outcomes} <= {"failed", "succeeded", "stopped"}
    assert any(outcome.status == "succeeded" for outcome in outcomes)
    assert all(outcome.error == f"trial {outcome.number}: its loss was NaN at step 2" for outcome in failed)


def test_repeats_are_judged_by_their_mean(tmp_path: Path):
    with stage(tmp_path, SimulatedTrials(MAX_STEPS, num_repeats=2)) as here:
        here.open_pack(0, 4)
        outcomes = here.drive(here.search(6, 2))
        assert here.close()[0].most_slots == 4
    for outcome in outcomes:
        one, other = (repeat["eval_loss"] for repeat in outcome.result["repeats"])
        assert one < other  # the formula's seeds differ
        assert outcome.result["eval_loss"] == pytest.approx((one + other) / 2)
        assert outcome.result["eval_loss_std"] == pytest.approx((other - one) / 2**0.5)


def test_a_trial_is_done_when_all_its_repeats_are(tmp_path: Path):
    with stage(tmp_path, SimulatedTrials(4, num_repeats=2, more_steps=2)) as here:
        here.open_pack(0, 4)
        outcomes = here.drive(here.search(3, 2, scheduler=FIFOScheduler()))
        here.close()
    for outcome in outcomes:
        assert outcome.status == "succeeded"
        reports = here.reports(outcome.number)
        assert [result["steps"] for result in reports] == [1, 2, 3, 4, 5, 6]
        assert [result["done"] for result in reports] == [False] * 5 + [True]
        first, second = outcome.result["repeats"]
        assert (first["step"], second["step"]) == (4, 6)
        assert first["adapter_uri"] and second["adapter_uri"]
        assert first == reports[3]["repeats"][0], "the seed that was through keeps its values"
        assert outcome.result["eval_loss"] == pytest.approx((first["eval_loss"] + second["eval_loss"]) / 2)


def test_a_draw_that_makes_no_run_fails_alone(tmp_path: Path):
    """The ends of the range divide the four rows of a step; three do not."""
    _, outcomes, _ = ran(made("random", "fifo", 8, micro_batch_size={"int": [1, 4]}), tmp_path, at_once=4)
    drawn = [outcome.sampled["micro_batch_size"] for outcome in outcomes]
    assert {3} < set(drawn)
    for size, outcome in zip(drawn, outcomes, strict=True):
        assert outcome.status == ("failed" if size == 3 else "succeeded")
        assert size != 3 or "does not divide the rows of the run's steps, 4" in (outcome.error or "")


def test_a_budget_in_tokens_ends_trials_and_is_what_asha_counts(tmp_path: Path):
    """A simulated step takes 64 tokens; none of the trials has a number of steps to end at."""
    here, outcomes, _ = ran(made("random", "asha", 12, budget={"tokens": 64 * 8}), tmp_path, at_once=4)
    assert {outcome.status for outcome in outcomes} == {"succeeded", "stopped"}
    for outcome in outcomes:
        assert (outcome.status == "succeeded") == (outcome.result["tokens"] == 64 * 8)
        assert here.reports(outcome.number)[0]["tokens"] == 64


def test_asha_stops_the_low_ones_where_more_is_better(here: Stage):
    here.open_pack(0, 8)
    outcomes = here.drive(here.search(16, 8, mode="max"))
    # The formula's losses fall at every step, so that the greatest at one rung are the slowest.
    speed = {o.number: quality(SimulatedTrials(MAX_STEPS).repeats(o.sampled, o.number)[0].spec) for o in outcomes}
    ended = [speed[outcome.number] for outcome in outcomes if outcome.status == "succeeded"]
    stopped = [speed[outcome.number] for outcome in outcomes if outcome.status == "stopped"]
    assert min(speed.values()) in ended and max(speed.values()) in stopped
    assert sum(ended) / len(ended) < sum(stopped) / len(stopped)
    here.close()
