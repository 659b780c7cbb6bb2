"""The desk of two packs of which one loses its workers: the other goes on, whatever the lost one was asked to do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from raylora.runtime.cluster.desk_messages import Close, Report
from raylora.runtime.pack import desk as desk_module
from raylora.runtime.pack.desk import Desk
from tests.unit.runtime.steering import PATIENCE_S, Steering, claim, metrics, told

NUM_SLOTS = 2


def two_at_work(steering: Steering) -> tuple[Future[Any], Future[Any]]:
    """A trial at work in each of two packs, whose keys are their numbers; the futures of their reports."""
    futures = []
    for trial in range(2):
        steering.desk.open_pack(trial, str(trial), NUM_SLOTS)
        steering.lease(claim(trial, key=str(trial)))
        futures.append(steering.go(f"lease{trial}-0"))
    steering.settle()
    for trial in range(2):
        commands = steering.exchange(trial, wait=True).result(PATIENCE_S)
        assert told(commands) == [f"Admit lease{trial}-0", f"Go lease{trial}-0"]
    return futures[0], futures[1]


def asked_to_save(steering: Steering) -> tuple[Future[Any], Future[Any]]:
    """The first trial has reported and is asked to save, as Tune does now and then; the second trains."""
    first, second = two_at_work(steering)
    turn = steering.exchange(0, [metrics(0, 1)], wait=True)
    first.result(PATIENCE_S)
    saving = steering.order(lambda: steering.desk.save(["lease0-0"]))
    assert told(turn.result(PATIENCE_S)) == ["Save lease0-0"]
    steering.settle()
    return saving, second


def gone(desk: Desk) -> None:
    """The workers are gone, and no others are there yet: their node is awaited."""
    desk.miss_pack(0)


def replaced(desk: Desk) -> None:
    """Others have come, and do again what those had done since the last save."""
    gone(desk)
    desk.lose_pack(0, "its workers were restarted", True)
    desk.open_pack(0, "0", NUM_SLOTS)


@pytest.mark.parametrize("lose", [gone, replaced])
def test_what_a_lost_pack_was_asked_to_save_keeps_no_other_waiting(steering: Steering, lose: Callable[[Desk], None]):
    """Neither for answers to its reports, nor for its next trial; with the node gone for good it would be for ever."""
    saving, second = asked_to_save(steering)
    lose(steering.desk)
    turn = steering.exchange(1, [metrics(1, 1)], wait=True)
    assert second.result(PATIENCE_S) == [metrics(1, 1)]
    steering.lease(claim(2, key="1"))
    steering.go("lease1-0")
    steering.go("lease2-0")
    steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Admit lease2-0", "Go lease1-0", "Go lease2-0"]
    assert not saving.done()


def test_what_it_was_asked_to_save_is_saved_when_it_is_back(steering: Steering):
    saving, _ = asked_to_save(steering)
    replaced(steering.desk)
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
    assert told(steering.exchange(0, [metrics(0, 1)]).result(PATIENCE_S)) == ["Save lease0-0"]
    steering.exchange(0, [Report("lease0-0", "saved", 1, {"uri": "at-1"})])
    assert saving.result(PATIENCE_S) == ["at-1"]


def test_reports_of_the_lost_pack_itself_wait_for_the_save_before_them(steering: Steering):
    """As if nothing had happened: with one pack a fault changes no decision, and there is nobody to go on."""
    steering.desk.open_pack(0, "all", NUM_SLOTS)
    futures = []
    for trial in range(2):
        steering.lease(claim(trial))
        futures.append(steering.go(f"lease{trial}-0"))
    steering.settle()
    steering.exchange(0, wait=True).result(PATIENCE_S)
    turn = steering.exchange(0, [metrics(0, 1), metrics(1, 1)], wait=True)
    futures[0].result(PATIENCE_S)
    steering.order(lambda: steering.desk.save(["lease0-0"]))
    turn.result(PATIENCE_S)
    gone(steering.desk)
    steering.settle()
    with pytest.raises(TimeoutError):
        futures[1].result(0.5)


def test_in_step_all_wait_for_a_save_of_a_lost_pack(steering: Steering):
    """Population-based training would stop its driver there, which then would not see what becomes of the pack."""
    steering.desk.in_step = True
    _, second = asked_to_save(steering)
    gone(steering.desk)
    steering.exchange(1, [metrics(1, 1)], wait=True)
    with pytest.raises(TimeoutError):
        second.result(0.5)


def test_in_step_a_save_by_workers_that_stay_away_is_given_up(steering: Steering, monkeypatch: pytest.MonkeyPatch):
    """All others waited for it, and so did the driver, which lets trials of such a pack go on elsewhere."""
    monkeypatch.setattr(desk_module, "SAVE_S", 0.05)
    steering.desk.in_step = True
    saving, second = asked_to_save(steering)
    steering.exchange(1, [metrics(1, 1)], wait=True)
    with pytest.raises(TimeoutError):
        saving.result(0.5)  # its workers are there, and only slow
    gone(steering.desk)
    assert saving.result(PATIENCE_S) == [None]
    steering.settle()
    assert second.result(PATIENCE_S) == [metrics(1, 1)]


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "to come"])
def test_trials_of_a_pack_that_is_given_up_go_on_in_another_of_their_kind(steering: Steering, is_open: bool):
    """From their last save; told is what nobody has heard yet. None fails where the other is only to come."""
    steering.desk.open_pack(0, "all", NUM_SLOTS)
    steering.lease(claim(0))
    first = steering.go("lease0-0")
    steering.settle()
    steering.exchange(0, wait=True).result(PATIENCE_S)
    steering.exchange(0, [Report("lease0-0", "kept", 1, {"uri": "at-1"}), metrics(0, 2)])
    first.result(PATIENCE_S)
    second = steering.go("lease0-0")
    steering.settle()
    gone(steering.desk)
    if is_open:
        steering.desk.open_pack(1, "all", NUM_SLOTS)
    steering.desk.lose_pack(0, None, again=False)
    if not is_open:
        assert steering.desk.waiting() == {"all": 1}
        steering.desk.open_pack(1, "all", NUM_SLOTS)
    admit, go = steering.exchange(1, wait=True).result(PATIENCE_S)
    assert (told([admit, go]), admit.start_from) == (["Admit lease0-0", "Go lease0-0"], "at-1")
    assert told(steering.exchange(1, [metrics(0, 2)]).result(PATIENCE_S)) == ["Go lease0-0"]
    steering.exchange(1, [metrics(0, 3)])
    assert second.result(PATIENCE_S) == [metrics(0, 3)]


def test_a_slot_is_freed_before_a_trial_of_a_lost_pack_gets_it(steering: Steering):
    """The workers would have one more beside it for a moment, for which there may be no memory."""
    for pack in range(2):
        steering.desk.open_pack(pack, "all", 1)
    for trial in range(2):
        steering.lease(claim(trial))
        steering.go(f"lease{trial}-0")
    steering.settle()
    assert told(steering.exchange(1, wait=True).result(PATIENCE_S)) == ["Admit lease1-0", "Go lease1-0"]
    turn = steering.exchange(1, [metrics(1, 1)], wait=True)
    steering.order(lambda: steering.desk.free(["lease1-0"])).result(PATIENCE_S)
    gone(steering.desk)
    steering.desk.lose_pack(0, None, again=False)
    assert told(turn.result(PATIENCE_S)) == ["Free lease1-0", "Admit lease0-0", "Go lease0-0"]


def test_no_lease_is_given_a_slot_of_workers_that_are_gone(steering: Steering):
    """It would wait for them, with slots free beside it."""
    for pack in range(2):
        steering.desk.open_pack(pack, "all", NUM_SLOTS)
    gone(steering.desk)
    steering.lease(claim(0))
    steering.go("lease0-0")
    steering.settle()
    assert told(steering.exchange(1, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
    assert steering.exchange(0).result(PATIENCE_S) == [Close()], "whoever of them still asks"


def test_a_lost_slot_is_given_back_while_whoever_steers_waits_for_its_save(steering: Steering):
    """Tune stands still until a trial that others are to take over is saved: it settles no more before."""
    first, _ = two_at_work(steering)
    turn = steering.exchange(0, [metrics(0, 1)], wait=True)
    first.result(PATIENCE_S)
    saving = steering.order(lambda: steering.desk.save(["lease0-0"]))
    assert told(turn.result(PATIENCE_S)) == ["Save lease0-0"]
    replaced(steering.desk)
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
    assert told(steering.exchange(0, [metrics(0, 1)]).result(PATIENCE_S)) == ["Save lease0-0"]
    steering.exchange(0, [Report("lease0-0", "saved", 1, {"uri": "at-1"})])
    assert saving.result(PATIENCE_S) == ["at-1"]


@pytest.mark.parametrize("is_halted", [True, False], ids=["before", "after"])
def test_who_stops_a_sweep_waits_for_no_save_of_a_lost_pack(steering: Steering, is_halted: bool):
    """The next process goes on from the save before, and what was told since is told to nobody again."""
    saving, _ = asked_to_save(steering)
    for happens in (steering.desk.halt, lambda: gone(steering.desk))[:: 1 if is_halted else -1]:
        assert not saving.done()
        happens()
    assert saving.result(PATIENCE_S) == [None]
    assert steering.order(lambda: steering.desk.save(["lease0-0"])).result(PATIENCE_S) == [None]


def test_only_a_pack_without_leases_is_held_to_be_closed_while_its_workers_are_gone(steering: Steering):
    """The room of one with leases is kept for it; for one without, nobody waits."""
    two_at_work(steering)
    gone(steering.desk)
    assert steering.desk.held() == {0: 1, 1: 1}
    steering.desk.free(["lease0-0"])
    assert steering.desk.held() == {1: 1}
