"""Memory that a plan counts on: what differs between the slots of a pack, and a GPU that nobody has seen yet."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.train.prediction.estimate import estimate
from tests.unit.sweep.planned_sweeps import CONFIG, GRID_OF_8, grid, machine, only, place, plan, sweep

VERA = {"adapter": "vera", "lora_r": 64}
LARGE = LlamaConfig(
    hidden_size=1024, intermediate_size=2048, num_hidden_layers=1, num_attention_heads=4, vocab_size=300_000
)
"""Nearly all that its worker holds is base."""
GB = 10**9


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


def test_a_base_that_does_not_train_is_held_once_and_what_grows_half_as_much_again() -> None:
    found = only(plan(grid(GRID_OF_8, slots=1), machine(), LARGE))
    (rank,) = found.memory.ranks
    assert rank.base_bytes > 2 * GB and rank.peak_bytes < 1.25 * rank.base_bytes
    assert found.held_bytes == pytest.approx(rank.base_bytes + 1.5 * (rank.peak_bytes - rank.base_bytes), abs=1)
    # The process takes 0.6 GB, a tenth is left alone.
    room = round((found.held_bytes + 0.6 * GB) / 0.9)
    assert room < (1.5 * rank.base_bytes + 0.6 * GB) / 0.9
    wide, narrow = (only(plan(grid(GRID_OF_8), machine(host_bytes=room + more), LARGE)) for more in (1000, -1000))
    assert (wide.fits, narrow.fits) == (True, False)


def test_a_base_that_trains_is_copied_into_saves_and_grows_too() -> None:
    rates = {"learning_rate": {"choice": [1e-4, 1e-3]}}
    found = only(plan(grid(rates, {"adapter": "full"}), machine()))
    assert found.memory.ranks[0].base_bytes > 0
    assert found.held_bytes == pytest.approx(1.5 * found.memory.peak_bytes, abs=1)


def test_the_room_that_is_told_is_what_there_is_for_a_worker() -> None:
    found = only(plan(grid(GRID_OF_8), machine(host_bytes=10 * GB)))
    assert found.bytes_per_worker == found.to_json()["bytes_per_worker"] == pytest.approx(8.4 * GB)
    short = only(plan(grid(GRID_OF_8), machine(host_bytes=2 * GB), LARGE))
    needed = f"even one trial needs {short.held_bytes / GB:.2f} GB"
    assert short.width.why_so_many == f"{needed}, and a worker may hold 1.20 GB; it may not fit"


def test_galores_rank_goes_with_galore_alone() -> None:
    """AdamW's trials have its default, which is above the width of this base's layers."""
    adamw = {"learning_rate": 1e-3}
    narrow, wide = ({"optimizer": "galore_adamw", "galore_rank": rank} for rank in (4, 8))
    of_both, of_galore = (
        only(plan(grid({"_kind": {"choice": choices}}, {"adapter": "full"}), machine()))
        for choices in ([adamw, narrow, wide], [narrow, wide])
    )
    assert (of_both.num_trials, of_both.largest.optimizer) == (3, "adamw_torch")
    assert (of_galore.num_trials, of_galore.largest.galore_rank) == (2, wide["galore_rank"])
