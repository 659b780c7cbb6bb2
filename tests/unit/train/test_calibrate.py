"""The fastest number of slots: the choice among measured widths, and a base that is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.data.collate import Batch
from raylora.train import calibrate as calibrate_module
from raylora.train.allocation import Allocation
from raylora.train.calibrate import best_width, calibrate
from raylora.train.integrity import check_unchanged, checksum
from raylora.train.trainee import Trainee
from tests.unit.train.pack_run import admit as admit_member
from tests.unit.train.pack_run import open_rows, place_tiny, state_of, train_all
from tests.unit.train.tiny_run import save_materials, tiny_spec


@pytest.mark.parametrize(
    ("rates", "at_most", "chosen"),
    [
        ({1: 100.0}, 1, 1),
        ({1: 100.0, 2: 150.0, 4: 170.0, 8: 180.0}, 8, 8),
        ({1: 100.0, 2: 150.0, 4: 250.0}, 32, 32),  # time was up, and a further slot took 0.3 of the time of one alone
        ({1: 100.0, 2: 150.0, 4: 170.0}, 32, 8),  # it took 0.5 of it and more
        ({1: 100.0, 2: 104.0}, 3, 3),
        ({1: 100.0, 2: 150.0, 4: 151.0}, 32, 4),  # time was up, and it was not
        ({1: 100.0, 2: 104.0, 4: 90.0}, 8, 2),
        ({1: 100.0, 2: 96.0}, 8, 1),
    ],
)
def test_the_width_that_is_fastest_is_chosen(rates: dict[int, float], at_most: int, chosen: int) -> None:
    assert best_width(rates, at_most) == chosen


def test_a_step_that_was_held_up_is_taken_to_be_no_slower_than_a_wider_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = save_materials(tmp_path, 12)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=2)
    rows, _ = open_rows(spec, home / "cache")
    batch, seconds = rows.step(0, 0, 1)[0], {1: 0.5, 2: 0.02, 4: 0.1}
    monkeypatch.setattr(calibrate_module, "_step_s", lambda trainee, batch, width: seconds[width])
    found = calibrate(place_tiny(spec), [spec], batch, 4, 2)
    rates = {width: rate / batch.num_tokens for width, rate in found.tokens_per_s.items()}
    assert rates == pytest.approx({1: 50.0, 2: 100.0, 4: 40.0})
    assert found.num_slots == 2


def test_a_run_that_the_base_refuses_is_passed_over(tmp_path: Path) -> None:
    """It fails when its trial comes; the pack offers the slots that the others are fastest with."""
    home = save_materials(tmp_path, 12)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=2)
    rows, _ = open_rows(spec, home / "cache")
    wide = spec.model_copy(update={"lora_r": 4096})
    trainee, batch = place_tiny(spec), rows.step(0, 0, 1)[0]
    assert list(calibrate(trainee, [spec, wide], batch, 8, 2).tokens_per_s)[:2] == [1, 2]
    assert calibrate(trainee, [wide], batch, 8, 2).num_slots == 8
    assert not trainee.steppers


def test_adalora_is_measured_with_what_it_does_beside_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = save_materials(tmp_path, 12)
    adalora = {"adapter": "adalora", "lora_r": 6, "target_r": 2, "max_steps": 10}
    spec = tiny_spec(home / "base", home / "rows.jsonl", **adalora)
    rows, _ = open_rows(spec, home / "cache")
    penalised: list[Allocation] = []
    penalty = Allocation.penalty
    monkeypatch.setattr(Allocation, "penalty", lambda mine: penalised.append(mine) or penalty(mine))
    trainee = place_tiny(spec)
    unfit = spec.model_copy(update={"tinit": 9, "tfinal": 9})  # refused when it begins, and passed over
    assert 2 in calibrate(trainee, [spec, unfit], rows.step(0, 0, 1)[0], 2, 10).tokens_per_s
    assert len(set(penalised)) == 2
    assert not trainee.steppers and not trainee.allocations


@pytest.mark.parametrize(("again_s", "num_slots"), [(1.2, 32), (1.5, 8)])
def test_a_step_that_would_narrow_the_pack_is_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again_s: float, num_slots: int
) -> None:
    """Time is up at width 4, where a further slot took 0.58 of the time of one alone, or, undisturbed, 0.33."""
    home = save_materials(tmp_path, 12)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=2)
    rows, _ = open_rows(spec, home / "cache")
    seconds = {1: [0.6, 0.6], 2: [0.8], 4: [1.5, again_s]}
    monkeypatch.setattr(calibrate_module, "_step_s", lambda trainee, batch, width: seconds[width].pop(0))
    found = calibrate(place_tiny(spec), [spec], rows.step(0, 0, 1)[0], 32, 2)
    assert (found.num_slots, seconds) == (num_slots, {1: [], 2: [], 4: []})


def test_the_slots_that_are_measured_are_as_unlike_as_the_runs_that_will_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots that are alike share calls, which those of a sweep over ranks do not."""
    home = save_materials(tmp_path, 12)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=2)
    rows, _ = open_rows(spec, home / "cache")
    seen: dict[int, list[float]] = {}

    def step_s(trainee: Trainee, batch: Batch, width: int) -> float:
        seen[width] = [trainee.bank.kind(slot)[0] for slot in range(width)]
        return 0.1

    monkeypatch.setattr(calibrate_module, "_step_s", step_s)
    likely = [spec.model_copy(update={"lora_r": rank}) for rank in (2, 4, 8)]
    calibrate(place_tiny(spec), likely, rows.step(0, 0, 1)[0], 4, 2)
    assert seen == {1: [2], 2: [2, 4], 4: [2, 4, 8, 2]}


def test_widths_are_measured_on_the_placed_base_and_leave_no_trace(tmp_path: Path) -> None:
    home = save_materials(tmp_path, 12)
    spec = tiny_spec(home / "base", home / "rows.jsonl", load_in_4bit=True, max_steps=2)
    rows, _ = open_rows(spec, home / "cache")

    def trained(calibrated: bool) -> list[float]:
        trainee = place_tiny(spec)
        before = checksum(trainee)
        if calibrated:
            found = calibrate(trainee, [spec, spec.model_copy(update={"lora_r": 3})], rows.step(0, 0, 1)[0], 3, 2)
            assert list(found.tokens_per_s)[:2] == [1, 2]
            assert all(rate > 0 for rate in found.tokens_per_s.values())
            assert found.num_slots in (1, 2, 3)
            assert not trainee.steppers
        member = admit_member(trainee, 0, spec, home)
        train_all(trainee, [member])
        check_unchanged(trainee, before)
        return [float(value.double().sum()) for value in state_of(trainee, member).values()]

    assert trained(calibrated=True) == trained(calibrated=False)
