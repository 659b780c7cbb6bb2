"""Memory that a plan counts on: what differs between the slots of a pack, and a GPU that nobody has seen yet."""

from __future__ import annotations

import pytest

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.train.prediction.estimate import estimate
from tests.unit.sweep.planned_sweeps import CONFIG, GRID_OF_8, grid, machine, only, place, plan, sweep

VERA = {"adapter": "vera", "lora_r": 64}


@pytest.mark.parametrize(
    ("asked", "num_slots"),
    [
        (grid({"projection_prng_key": {"choice": [0, 1, 2, 3]}}, VERA), 4),
        (grid({"_key": {"choice": [{"projection_prng_key": key} for key in range(3)]}}, VERA), 3),
        (sweep({"projection_prng_key": {"int": [0, 1000]}}, VERA, searcher="random"), 8),
    ],
    ids=["choices", "beside others", "drawn"],
)
def test_random_matrices_of_vera_are_held_once_for_each_of_their_seeds(asked: SweepSpec, num_slots: int) -> None:
    found = only(plan(asked, machine()))
    assert found.width.num_slots == num_slots
    one = estimate(found.largest, CONFIG, device="cpu").ranks[0]
    assert found.memory.ranks[0].adapters_bytes == num_slots * one.adapters_bytes


@pytest.mark.parametrize(("slots", "num_slots"), [(None, 1), (3, 3)])
def test_a_gpu_that_is_not_there_yet_holds_what_slots_says(slots: int | None, num_slots: int) -> None:
    """Its memory is not known: a cluster that grows has it when the first pack has asked for it."""
    found = only(plan(grid(GRID_OF_8, place(gpus_per_worker=1), slots=slots), machine(cores=4)))
    assert (found.num_places, found.num_packs, found.width.num_slots) == (0, 1, num_slots)
    assert "its memory is not known" in found.width.why_so_many or slots
