"""A lease beside a real desk and a simulated pack: what it keeps when its trial is paused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.air._internal.filelock import TempFileLock
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint

from raylora.runtime.cluster.desk_messages import Report
from raylora.runtime.pack.desk import Desk
from raylora.sweep.steering.lease import SLOTS, Lease
from raylora.sweep.steering.signed_files import tunes_files
from tests.unit.runtime.steering import PATIENCE_S, Steering
from tests.unit.sweep.simulated_pack import SimulatedPack
from tests.unit.sweep.simulated_trials import SimulatedTrials

TRIALS = SimulatedTrials(2, num_repeats=2, more_steps=2)


@pytest.fixture
def steering(tmp_path: Path) -> Iterator[Steering]:
    steering = Steering(Desk())
    steering.desk.open_pack(0, "all", 2)
    pack = SimulatedPack(0, tmp_path)
    running = steering.pool.submit(pack.run, steering.desk.exchange)
    yield steering
    steering.desk.close()
    assert running.result(30)
    steering.pool.shutdown(wait=True)


def new_lease(steering: Steering, name: str) -> Lease:
    return Lease({"learning_rate": 1e-3}, None, steering.desk, TRIALS, 0, name)


def test_a_repeat_that_was_through_before_a_pause_does_not_train_again(steering: Steering, tmp_path: Path):
    lease = new_lease(steering, "before")
    for _ in range(3):
        result = steering.answer(steering.order(lease.step))
    assert [told["finished"] for told in result["repeats"]] == [True, False]
    for name in ("eval_loss", "eval_perplexity", "train_loss"):
        one, other = (told[name] for told in result["repeats"])
        assert result[name] == pytest.approx((one + other) / 2)
        assert result[f"{name}_std"] == pytest.approx(abs(one - other) / 2**0.5)
    assert not result["done"]
    steering.answer(steering.order(lambda: lease.save_checkpoint(str(tmp_path))))
    lease.cleanup()

    again = new_lease(steering, "after")
    again.load_checkpoint(str(tmp_path))
    last = steering.answer(steering.order(again.step))
    assert [told["step"] for told in last["repeats"]] == [2, 4]
    assert last["repeats"][0] == result["repeats"][0]
    assert last["done"] and last["finished"]
    again.cleanup()


def test_what_was_cloned_does_not_end_with_the_run_it_was_cloned_from(steering: Steering, tmp_path: Path):
    donor = new_lease(steering, "donor")
    for _ in range(4):
        result = steering.answer(steering.order(donor.step))
    assert result["done"]
    steering.answer(steering.order(lambda: donor.save_checkpoint(str(tmp_path))))
    donor.cleanup()
    clone = Lease({"learning_rate": 1e-3}, None, steering.desk, TRIALS, 1, "clone")
    clone.load_checkpoint(str(tmp_path))
    assert {told["run_id"] for told in steering.answer(steering.order(clone.step))["repeats"]} == {
        "sweep-1-0",
        "sweep-1-1",
    }
    clone.cleanup()


@pytest.mark.parametrize("num_steps", [0, 1])
def test_a_trial_of_a_killed_process_goes_on_from_where_it_stood_at_the_interruption_before(
    tmp_path: Path, num_steps: int
):
    """At its very beginning where it had no step by then, as the last to get a slot, however far it came since.

    Tune had kept nothing of it since, and has to judge each report.
    """
    first, killed, last = (SimulatedPack(0, tmp_path) for _ in range(3))
    saved = interrupted(first, num_steps, None, tmp_path / "first")
    interrupted(killed, 3, saved, tmp_path / "killed")  # nobody knows what it saved
    interrupted(last, 0, saved, tmp_path / "last")
    assert [pack.log[0] for pack in (first, killed, last)] == ["admit 0", *[f"admit 0 at {num_steps}"] * 2]


def interrupted(pack: SimulatedPack, num_turns: int, saved: Path | None, folder: Path) -> Path:
    """Train a trial in a process of its own for so many reports, and save it as a wish to stop does."""
    steering = Steering(Desk())
    steering.desk.open_pack(0, "all", 1)
    lease = Lease({"learning_rate": 1e-3}, None, steering.desk, SimulatedTrials(9), 0, "lease")
    if saved is not None:
        lease.load_checkpoint(str(saved))
    told = steering.order(lease.step)
    steering.settle()
    obey(pack, steering)
    for _ in range(num_turns):
        turn = steering.exchange(0, pack.turn(), wait=True)
        told.result(PATIENCE_S)
        told = steering.order(lease.step)
        steering.settle()
        for command in turn.result(PATIENCE_S):
            pack.obey(command)
    steering.desk.halt()
    folder.mkdir()
    saving = steering.order(lambda: lease.save_checkpoint(str(folder)))
    reports: list[Report] = []
    while not reports:
        reports = obey(pack, steering)
    steering.exchange(0, reports)
    saving.result(PATIENCE_S)
    lease.cleanup()
    steering.pool.shutdown(wait=True)
    return folder


def obey(pack: SimulatedPack, steering: Steering) -> list[Report]:
    """What the pack has to tell when it has done what it is told."""
    commands = steering.exchange(0, wait=True).result(PATIENCE_S)
    return [report for command in commands for report in pack.obey(command)]


def test_two_that_go_on_from_one_checkpoint_do_not_meet(steering: Steering, tmp_path: Path):
    """Ray's readers of one object share a folder of copies, which the first who is done removes under the others."""
    (tmp_path / SLOTS).write_text(json.dumps([{"run_id": "sweep-9-0", "uri": "adapter", "report": None}] * 2))
    path, files = tunes_files(str(tmp_path))
    shared = Checkpoint(path, files)
    # Another reader is copying: whoever waits for it reads what it leaves.
    with shared.as_directory() as folder, TempFileLock(folder):
        new_lease(steering, "one").restore(_TrainingResult(shared, {}))
