"""What drives a search beside slots that are not saved: the others are, and what is known is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raylora.sweep.steering import drive as drive_module
from raylora.sweep.steering.drive import KEEP_S, _forgets_nothing, _paused
from raylora.sweep.steering.seats import Seats
from tests.unit.runtime.handles import Handle, NoRay

LOST = "lost"
SAVE_S = 10.0


@dataclass
class Running:
    """A trial."""

    trial_id: str
    is_saving: bool = False
    status: str = Trial.RUNNING


@dataclass
class Controller:
    """Tune's, of which each step takes a second: who is asked to save is paused when it is, but for one trial."""

    trials: list[Running]
    now_s: float = 0.0
    asked_at_s: float = 0.0
    _cached_trial_decisions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._actor_manager = self

    def is_finished(self) -> bool:
        return False

    def get_trials(self) -> list[Running]:
        return self.trials

    get_live_trials = get_trials

    def step(self) -> None:
        self.now_s += 1.0

    def pause_trial(self, trial: Running) -> None:
        trial.is_saving, self.asked_at_s = True, self.now_s

    def next(self, timeout: float) -> None:
        self.now_s += 1.0
        for trial in self.trials:
            if trial.is_saving and trial.trial_id != LOST and self.now_s >= self.asked_at_s + SAVE_S:
                trial.is_saving, trial.status = False, Trial.PAUSED


def test_a_slot_that_nobody_saves_does_not_cost_the_others_their_saves(monkeypatch: pytest.MonkeyPatch):
    """Its pack was lost a moment before somebody stopped the sweep, and nobody has noticed."""
    lost, well = Running(LOST, is_saving=True), Running("well")
    controller: Any = Controller([lost, well])
    monkeypatch.setattr(drive_module, "ray", NoRay)
    monkeypatch.setattr(drive_module, "time", SimpleNamespace(monotonic=lambda: controller.now_s))
    host: Any = Handle(SimpleNamespace(halt=lambda: None, settled=lambda: False))
    assert _paused(controller, Seats(host, 2, int), host) == {LOST: Trial.RUNNING, "well": Trial.RUNNING}
    assert (lost.status, well.status) == (Trial.RUNNING, Trial.PAUSED)


@pytest.mark.parametrize(
    ("late_s", "decision", "is_kept"),
    [
        (1.0, TrialScheduler.CONTINUE, False),
        (KEEP_S + 1.0, TrialScheduler.CONTINUE, True),
        (KEEP_S + 1.0, TrialScheduler.STOP, False),
        (KEEP_S + 1.0, None, False),
    ],
    ids=["soon saved", "long in coming", "to be stopped", "not decided upon"],
)
def test_what_is_known_is_kept_beside_a_save_that_is_long_in_coming(late_s: float, decision: str | None, is_kept: bool):
    """A driver that is killed while a pack waits for its node would have other trials done again."""
    decisions = {} if decision is None else {LOST: decision}
    controller: Any = Controller([Running(LOST, is_saving=True), Running("well")], _cached_trial_decisions=decisions)
    assert _forgets_nothing(controller, late_s) is is_kept


def test_what_is_known_is_kept_at_once_where_nothing_is_being_saved():
    controller: Any = Controller([Running("well")])
    assert _forgets_nothing(controller, 0.1)
