"""How many trials a searcher draws before it has heard of any: few where it learns, however many fit side by side."""

from __future__ import annotations

from typing import Any

import pytest

from raylora.sweep.steering.search import search_of
from tests.unit.sweep.drawn import drawn_by
from tests.unit.sweep.made_berths import planned
from tests.unit.sweep.planned_sweeps import machine, only, plan, sweep


@pytest.mark.parametrize(
    ("searcher", "fields", "num_drawn"),
    [
        ("optuna", {}, 4),
        ("hyperopt", {}, 4),
        ("bohb", {"scheduler": "hyperband"}, 16),
        ("optuna", {"num_trials": 3}, 2),
        ("optuna", {"repeats": 2}, 4),
        ("optuna", {"num_cores": 8}, 4),
        ("optuna", {"slots": 6}, 6),
        ("random", {}, 16),
    ],
)
def test_a_searcher_that_learns_draws_a_quarter_of_its_trials_before_the_first_report(
    searcher: str, fields: dict[str, Any], num_drawn: int
) -> None:
    """There is room for all of them at once."""
    asked = {"num_trials": 16, "space": {"learning_rate": {"loguniform": [1e-4, 1e-2]}}, "searcher": searcher}
    spec, berths = planned(1, **asked | fields)
    search = search_of(spec, "folder", berths.num_at_once)
    assert len(drawn_by(search.searcher, spec)) == search.num_at_once == num_drawn


def test_a_plan_has_slots_for_as_many_trials_as_a_searcher_that_learns_draws_at_once() -> None:
    space = {"learning_rate": {"loguniform": [1e-4, 1e-2]}}
    asked = sweep(space, searcher="optuna", num_trials=16)
    found = only(plan(asked, machine()))
    assert (found.num_trials, found.width.num_slots) == (16, 4)
    assert found.width.why_so_many.startswith("optuna draws by what was reported before, so no more than 4 of the 16")
    shared = only(plan(asked, machine(cores=8)))
    assert (shared.num_packs, shared.width.num_slots) == (4, 1)
    assert shared.width.why_so_many.endswith("set slots for more. They are shared out over 4 packs")
    of_three = only(plan(sweep(space, searcher="optuna", num_trials=8, repeats=3), machine(cores=8)))
    assert (of_three.num_packs, of_three.width.num_slots) == (2, 3)
    by_chance = only(plan(sweep(space, num_trials=16), machine()))
    assert (by_chance.width.num_slots, by_chance.width.why_so_many) == (16, "the sweep has no more")
    assert only(plan(sweep(space, searcher="optuna", num_trials=16, slots=9), machine())).width.num_slots == 9
