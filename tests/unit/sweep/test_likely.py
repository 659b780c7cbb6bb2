"""What is likely before a searcher has drawn any: runs of the space, and one whose pack some trial will want."""

from __future__ import annotations

from typing import Any

import pytest

from raylora.spec.sweeps.space import configurations
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.planning.likely import NUM_DRAWN, first_run, likely_runs
from raylora.sweep.steering.trials import ALONE, SweepTrials
from tests.unit.sweep.drawn import RANGES, SPACE, made
from tests.unit.sweep.made_sweeps import trial

LENGTHS = {"sequence_len": {"choice": [64, 128]}}
PEFT = {"adapter_bank": {"choice": ["peft"]}}


def keys_of_a_grid(sweep: SweepSpec) -> list[str]:
    trials = SweepTrials(sweep, "sweep")
    return [trials.repeats(drawn, number)[0].key for number, drawn in enumerate(configurations(sweep.space))]


def test_the_runs_of_a_grid_come_in_order():
    sweep = made(SPACE, searcher="grid")
    wanted = [SweepTrials(sweep, "s").repeats(drawn, 0)[0].spec for drawn in configurations(sweep.space)]
    assert likely_runs(sweep) == wanted
    assert len(likely_runs(made(SPACE, searcher="grid", num_trials=3))) == 3


def test_draws_are_of_the_space_and_always_the_same():
    sweep = made(SPACE | RANGES, num_trials=4)
    runs = likely_runs(sweep)
    assert runs == likely_runs(sweep)
    assert len(runs) == NUM_DRAWN
    assert {run.lora_r for run in runs} == {4, 8}
    assert {run.warmup_steps for run in runs} == {0, 1, 2, 3}
    assert all(1e-5 <= run.learning_rate <= 1e-3 and run.lora_alpha == 2 * run.lora_r for run in runs)
    assert len({run.learning_rate for run in runs}) == NUM_DRAWN


@pytest.mark.parametrize("space", [LENGTHS, PEFT | LENGTHS], ids=["shared", "alone"])
def test_the_first_run_of_a_grid_has_the_pack_of_its_first_trial(space: dict[str, Any]):
    sweep = made(space, searcher="grid")
    first = first_run(sweep, ())
    assert first is not None and first.sequence_len == 64 != sweep.run.sequence_len
    assert SweepTrials.key(first) == keys_of_a_grid(sweep)[0]


def test_the_first_run_shares_its_pack_with_trials_that_may_be_drawn():
    sweep = made(LENGTHS | RANGES, num_trials=16)
    first = first_run(sweep, ())
    assert first is not None
    assert SweepTrials.key(first) in keys_of_a_grid(made(LENGTHS, searcher="grid"))


@pytest.mark.parametrize(
    "space", [PEFT | RANGES, {"sequence_len": {"int": [64, 40_000]}}], ids=["alone", "any of many lengths"]
)
def test_where_every_draw_has_a_pack_of_its_own_none_is_first(space: dict[str, Any]):
    assert first_run(made(space, num_trials=8), ()) is None


def test_a_sweep_that_goes_on_begins_with_a_trial_that_is_left():
    sweep = made(PEFT | RANGES, num_trials=8, repeats=2)
    sampled = {"adapter_bank": "peft", "learning_rate": 2e-4, "weight_decay": 0.01, "warmup_steps": 2}
    over, left = (trial(number, 1.5, config=sampled, repeat=number) for number in range(2))
    first = first_run(sweep, [over, left.model_copy(update={"status": "paused"})])
    assert first is not None
    key = SweepTrials.key(first)
    assert key.startswith(ALONE) and key == SweepTrials(sweep, "sweep").repeats(sampled, 0)[1].key
    assert first_run(sweep, [over, left]) is None
