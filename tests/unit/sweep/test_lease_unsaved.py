"""What a trial tells that was paused without its last steps: its workers were gone, and the save before counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.runtime.pack import desk as desk_module
from raylora.runtime.pack.desk import Desk
from raylora.sweep.steering.lease import Lease
from tests.unit.runtime.steering import Steering
from tests.unit.sweep.simulated_pack import SimulatedPack
from tests.unit.sweep.simulated_trials import SimulatedTrials

TRIALS = SimulatedTrials(6)


def test_steps_that_are_done_again_after_a_save_that_was_given_up_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk_module, "SAVE_S", 0.05)
    steering = Steering(Desk())
    steering.desk.in_step = True
    told: list[int] = []

    def train(name: str, saved: Path | None, num_reports: int) -> Lease:
        lease = Lease({"learning_rate": 1e-3}, None, steering.desk, TRIALS, 0, name)
        if saved is not None:
            lease.load_checkpoint(str(saved))
        told.extend(steering.answer(steering.order(lease.step))["steps"] for _ in range(num_reports))
        return lease

    def pause(lease: Lease, name: str) -> Path:
        (folder := tmp_path / name).mkdir()
        steering.answer(steering.order(lambda: lease.save_checkpoint(str(folder))))
        lease.cleanup()
        return folder

    saved: Path | None = None
    for number, is_lost in enumerate((False, True, False)):
        steering.desk.open_pack(number, "all", 1)
        running = steering.pool.submit(SimulatedPack(number, tmp_path).run, steering.desk.exchange)
        lease = train(f"lease{number}", saved, 2)
        if is_lost:
            steering.desk.miss_pack(number)
        saved = pause(lease, f"saved{number}")
        if not is_lost:
            steering.desk.close_pack(number)
        assert running.result(30)
    assert told == list(range(told[0], told[0] + 6))
    steering.pool.shutdown(wait=True)
