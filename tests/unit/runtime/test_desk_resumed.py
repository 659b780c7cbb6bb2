"""The desk when a search is interrupted and goes on: what was told is not told again, what was not told is."""

from __future__ import annotations

import time
from dataclasses import replace

from raylora.runtime.cluster.desk_messages import Go, Report
from tests.unit.runtime.steering import PATIENCE_S, Steering, claim, metrics, started, told


def test_what_was_told_before_is_not_told_again(steering: Steering):
    steering.desk.open_pack(0, "all", 1)
    steering.lease(replace(claim(0), start_from="at-2", told_step=4))
    future = steering.go("lease0-0")
    steering.settle()
    (admit, go) = steering.exchange(0, wait=True).result(PATIENCE_S)
    assert (admit.start_from, go) == ("at-2", Go("lease0-0"))
    for step in (3, 4):
        assert steering.exchange(0, [metrics(0, step)]).result(PATIENCE_S) == [Go("lease0-0")]
    turn = steering.exchange(0, [metrics(0, 5)], wait=True)
    assert future.result(PATIENCE_S) == [metrics(0, 5)]
    steering.desk.close()
    assert told(turn.result(PATIENCE_S)) == ["Close"]


def test_a_run_of_which_no_save_is_known_may_go_on_from_its_own_up_to_what_was_told(steering: Steering):
    steering.desk.open_pack(0, "all", 1)
    steering.lease(replace(claim(0), told_step=4))
    steering.go("lease0-0")
    steering.settle()
    (admit, go) = steering.exchange(0, wait=True).result(PATIENCE_S)
    assert (admit.start_from, admit.up_to_step, go) == (None, 4, Go("lease0-0"))
    steering.desk.lose_pack(0, "its workers were restarted", True)
    steering.desk.open_pack(0, "all", 1)
    (admit, go) = steering.exchange(0, wait=True).result(PATIENCE_S)
    # It goes on unasked until its last report: from there it would do a step that nobody has ordered.
    assert (admit.start_from, admit.up_to_step, go) == (None, 3, Go("lease0-0"))


def test_a_lease_that_nobody_told_to_go_stays_where_it_stood_when_its_pack_is_lost(steering: Steering):
    """It starts at its last report: there is nothing to do again, and what comes after it was not ordered."""
    steering.desk.open_pack(0, "all", 1)
    steering.lease(replace(claim(0), start_from="store/runs/run0/checkpoints/step-00000004", told_step=4))
    steering.settle()
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Admit lease0-0"]
    steering.desk.lose_pack(0, "its workers were restarted", True)
    steering.desk.open_pack(0, "all", 1)
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Admit lease0-0"]


def test_what_was_not_told_before_is_told_first_in_trial_order(steering: Steering):
    steering.desk.open_pack(0, "all", 3)
    finished = Report("lease2-0", "finished", 3, {"adapter_uri": "adapter"})
    for number in (2, 1, 0):
        untold = {0: None, 1: metrics(1, 2), 2: finished}[number]
        steering.lease(replace(claim(number), start_from="at-2", told_step=1 if untold else 2, untold=untold))
    futures = [steering.go(f"lease{trial}-0") for trial in (0, 1, 2)]
    steering.settle()
    assert futures[1].result(PATIENCE_S) == [metrics(1, 2)]
    assert not futures[2].done()
    futures[1] = steering.go("lease1-0")
    assert steering.answer(futures[2]) == [finished]
    steering.settle()
    commands = steering.exchange(0, wait=True).result(PATIENCE_S)  # the finished one needs no slot
    assert told(commands) == ["Admit lease0-0", "Admit lease1-0", "Go lease0-0", "Go lease1-0"]


def test_nothing_is_told_and_nobody_goes_on_after_a_halt_but_saves_are_made(steering: Steering):
    futures = started(steering, 2)
    turn = steering.exchange(0, [metrics(0, 1), metrics(1, 1)], wait=True)
    futures[0].result(PATIENCE_S)
    steering.desk.halt()
    assert told(turn.result(PATIENCE_S)) == ["Halt"]
    futures[0] = steering.go("lease0-0")
    steering.settle()
    deadline = time.monotonic() + PATIENCE_S
    while not steering.desk.settled():  # the order is on its way
        assert time.monotonic() < deadline
    assert not futures[1].done()
    saving = steering.order(lambda: steering.desk.save(["lease0-0", "lease1-0"]))
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Save lease0-0", "Save lease1-0"]
    saved = [Report(f"lease{trial}-0", "saved", 1, {"uri": f"{trial}-at-1"}) for trial in (0, 1)]
    steering.exchange(0, saved, wait=True)
    assert saving.result(PATIENCE_S) == ["0-at-1", "1-at-1"]
    assert steering.desk.last_reports(["lease0-0", "lease1-0"]) == [metrics(0, 1), metrics(1, 1)]
    assert not futures[0].done() and not futures[1].done()


def test_a_report_from_before_the_save_is_not_kept_with_it(steering: Steering):
    futures = started(steering, 1)
    turn = steering.exchange(0, [metrics(0, 1)], wait=True)
    futures[0].result(PATIENCE_S)
    steering.go("lease0-0")
    steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Go lease0-0"]
    saving = steering.order(lambda: steering.desk.save(["lease0-0"]))
    assert told(steering.exchange(0).result(PATIENCE_S)) == ["Save lease0-0"]
    steering.exchange(0, [Report("lease0-0", "saved", 2, {"uri": "at-2"})])
    assert saving.result(PATIENCE_S) == ["at-2"]
    assert steering.desk.last_reports(["lease0-0"]) == [None]


def test_a_slot_that_came_back_at_what_was_told_last_goes_on_when_it_is_told_to(steering: Steering):
    """Nobody knows where a lost slot starts: its first report may be new, and then it repeats nothing any more."""
    steering.desk.open_pack(0, "all", 1)
    steering.lease(replace(claim(0), start_from="at-4", told_step=4))
    future = steering.go("lease0-0")
    steering.settle()
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
    steering.desk.lose_pack(0, "killed", again=True)
    steering.desk.open_pack(0, "all", 1)
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
    turn = steering.exchange(0, [metrics(0, 5)], wait=True)
    assert future.result(PATIENCE_S) == [metrics(0, 5)]
    steering.go("lease0-0")
    steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Go lease0-0"]
