"""The desk: who is told what, in which order, and what happens to leases whose pack or trial goes away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raylora.runtime.cluster.desk_messages import Admit, Close, Go, Report, Save
from raylora.runtime.pack.waiters import Waiters
from tests.unit.runtime.steering import PATIENCE_S, Steering, claim, metrics, started, told


def test_reports_are_passed_on_in_trial_order_one_at_a_time(steering: Steering):
    futures = started(steering, 3)
    turn = steering.exchange(0, [metrics(trial, 1) for trial in (2, 0, 1)], wait=True)
    for trial in range(3):
        (report,) = futures[trial].result(PATIENCE_S)
        assert report == metrics(trial, 1)
        assert not any(future.done() for future in futures[trial + 1 :])
        assert not turn.done()
        futures[trial] = steering.go(report.lease)
        steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Go lease0-0", "Go lease1-0", "Go lease2-0"]


def test_an_idle_pack_is_let_go_every_second(steering: Steering, monkeypatch: pytest.MonkeyPatch):
    """It looks whether one of its nodes is about to be taken away, and saves before that."""
    started(steering, 1)
    waits: list[float | None] = []

    def wait_for(waiters: Waiters, reached: Callable[[], bool], timeout_s: float | None = None) -> None:
        if not reached():
            waits.append(timeout_s)

    monkeypatch.setattr(Waiters, "wait_for", wait_for)
    assert steering.desk.exchange(0, [], wait=True) == []
    assert waits == [1.0]


def test_an_order_that_is_on_its_way_keeps_the_desk_from_going_on(steering: Steering):
    futures = started(steering, 2)
    turn = steering.exchange(0, [metrics(0, 1), metrics(1, 1)], wait=True)
    futures[0].result(PATIENCE_S)
    steering.desk.settle(steering.num_orders + 1, 2)  # with one order that has not arrived
    assert not futures[1].done()
    again = steering.go("lease0-0")
    futures[1].result(PATIENCE_S)
    steering.go("lease1-0")
    steering.settle()
    steering.desk.settle(steering.num_orders - 1, 1)  # what was said long ago, and arrives now
    assert told(turn.result(PATIENCE_S)) == ["Go lease0-0", "Go lease1-0"]
    assert not again.done()


def test_a_freed_slot_and_its_next_lease_are_told_of_with_the_same_turn(steering: Steering):
    futures = started(steering, 2, num_slots=2)
    steering.lease(claim(2))
    steering.go("lease2-0")
    steering.settle()
    turn = steering.exchange(0, [metrics(0, 1), metrics(1, 1)], wait=True)
    futures[0].result(PATIENCE_S)
    steering.order(lambda: steering.desk.free(["lease0-0"])).result(PATIENCE_S)
    steering.settle()
    futures[1].result(PATIENCE_S)
    steering.go("lease1-0")
    steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Free lease0-0", "Admit lease2-0", "Go lease1-0", "Go lease2-0"]


def test_leases_wait_in_trial_order_and_none_overtakes(steering: Steering):
    steering.desk.open_pack(0, "all", 1)
    steering.lease(claim(0))
    steering.settle()
    steering.lease(claim(2))
    steering.lease(claim(1))
    steering.lease(claim(3, key="other"))
    assert steering.desk.waiting() == {"all": 2, "other": 1}
    steering.desk.free(["lease0-0"])
    steering.settle()
    # What never left is not taken back: the pack hears nothing of lease 0.
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Admit lease1-0"]


def test_a_lease_that_waits_for_answers_beside_a_free_slot_needs_no_other_pack(steering: Steering):
    started(steering, 1, num_slots=2)
    steering.exchange(0, [metrics(0, 1)], wait=True)
    steering.order(lambda: steering.desk.lease([claim(1)])).result(PATIENCE_S)
    assert steering.desk.waiting() == {}
    steering.order(lambda: steering.desk.lease([claim(2)])).result(PATIENCE_S)
    assert steering.desk.waiting() == {"all": 1}


def test_a_pack_that_a_lease_is_about_to_enter_is_not_closed(steering: Steering):
    steering.desk.open_pack(0, "all", 1)
    turn = steering.exchange(0, wait=True)
    steering.order(lambda: steering.desk.lease([claim(0)])).result(PATIENCE_S)
    steering.desk.close_pack(0)
    steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Admit lease0-0"]


def test_repeats_of_a_trial_get_their_slots_together_and_are_told_of_together(steering: Steering):
    steering.desk.open_pack(0, "all", 2)
    steering.lease(claim(0))
    steering.lease(claim(1), claim(1, repeat=1))
    steering.settle()
    assert steering.desk.waiting() == {"all": 1}
    steering.desk.open_pack(1, "all", 1)
    assert steering.desk.waiting() == {}
    both = steering.go("lease1-0", "lease1-1")
    steering.settle()
    for pack in (0, 1):
        steering.exchange(pack, wait=True).result(PATIENCE_S)
    first = steering.exchange(1, [Report("lease1-1", "metrics", 1, {})], wait=True)
    assert not both.done()
    steering.exchange(0, [metrics(1, 1)], wait=True)
    assert [report.lease for report in steering.answer(both)] == ["lease1-0", "lease1-1"]
    steering.desk.close()
    assert told(first.result(PATIENCE_S)) == ["Close"]


def test_save_hurries_and_others_do_not_train_meanwhile(steering: Steering):
    futures = started(steering, 2)
    turn = steering.exchange(0, [metrics(0, 1), metrics(1, 1)], wait=True)
    futures[0].result(PATIENCE_S)
    saving = steering.order(lambda: steering.desk.save(["lease0-0"]))
    assert told(turn.result(PATIENCE_S)) == ["Save lease0-0"]
    steering.settle()
    with pytest.raises(TimeoutError):  # a trial that is being paused has not left yet
        futures[1].result(0.5)
    turn = steering.exchange(0, [Report("lease0-0", "saved", 1, {"uri": "there"})])
    assert saving.result(PATIENCE_S) == ["there"]
    steering.order(lambda: steering.desk.free(["lease0-0"])).result(PATIENCE_S)
    steering.settle()
    futures[1].result(PATIENCE_S)
    steering.go("lease1-0")
    steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Free lease0-0", "Go lease1-0"]


def test_what_ended_has_no_slot_and_fails_alone(steering: Steering):
    futures = started(steering, 2, num_slots=2)
    steering.lease(claim(2))
    turn = steering.exchange(
        0, [Report("lease0-0", "failed", 3, {"error": "NaN"}), Report("lease1-0", "finished", 3, {})], wait=True
    )
    assert futures[0].result(PATIENCE_S)[0].values == {"error": "NaN"}
    steering.settle()
    assert futures[1].result(PATIENCE_S)[0].kind == "finished"
    steering.desk.free(["lease0-0", "lease1-0"])
    steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Admit lease2-0"]


def test_a_trial_that_is_stopped_while_it_trains_is_let_go(steering: Steering):
    futures = started(steering, 1)
    steering.order(lambda: steering.desk.free(["lease0-0"])).result(PATIENCE_S)
    assert futures[0].result(PATIENCE_S) == []
    steering.settle()
    assert told(steering.exchange(0, [metrics(0, 1)]).result(PATIENCE_S)) == ["Free lease0-0"]


@pytest.mark.parametrize("back", [True, False], ids=["when it is back", "elsewhere"])
def test_leases_of_a_lost_pack_go_on_from_their_last_save(steering: Steering, back: bool):
    futures = started(steering, 1)
    steering.exchange(0, [Report("lease0-0", "saved", 2, {"uri": "at-2"}), metrics(0, 2)], wait=True)
    for step in (3, 4):
        futures[0].result(PATIENCE_S)
        futures[0] = steering.go("lease0-0")
        steering.settle()
        steering.exchange(0, [metrics(0, step)], wait=True)
    futures[0].result(PATIENCE_S)
    futures[0] = steering.go("lease0-0")
    steering.settle()
    steering.desk.lose_pack(0, "killed", again=True)
    pack = 0 if back else 1
    steering.desk.open_pack(pack, "all", 1)
    admit, go = steering.exchange(pack, wait=True).result(PATIENCE_S)
    assert isinstance(admit, Admit) and admit.start_from == "at-2"
    assert go == Go("lease0-0")
    # Steps 3 and 4 were told before: nobody hears of them again, and step 5 was asked for.
    assert told(steering.exchange(pack, [metrics(0, 3)]).result(PATIENCE_S)) == ["Go lease0-0"]
    assert told(steering.exchange(pack, [metrics(0, 4)]).result(PATIENCE_S)) == ["Go lease0-0"]
    assert not futures[0].done()
    turn = steering.exchange(pack, [metrics(0, 5)], wait=True)
    assert futures[0].result(PATIENCE_S) == [metrics(0, 5)]
    steering.desk.close()
    assert told(turn.result(PATIENCE_S)) == ["Close"]


def test_a_save_that_a_lost_pack_owes_comes_after_what_is_done_again(steering: Steering):
    futures = started(steering, 1)
    turn = steering.exchange(0, [metrics(0, 1)], wait=True)
    futures[0].result(PATIENCE_S)
    saving = steering.order(lambda: steering.desk.save(["lease0-0"]))
    assert turn.result(PATIENCE_S) == [Save("lease0-0")]
    steering.desk.lose_pack(0, "killed", again=True)
    steering.desk.open_pack(0, "all", 1)
    steering.settle()
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
    assert told(steering.exchange(0, [metrics(0, 1)]).result(PATIENCE_S)) == ["Save lease0-0"]
    steering.exchange(0, [Report("lease0-0", "saved", 1, {"uri": "at-1"})])
    assert saving.result(PATIENCE_S) == ["at-1"]


def test_leases_that_can_go_on_nowhere_fail_with_the_reason(steering: Steering):
    futures = started(steering, 2)
    steering.desk.lose_pack(0, "rank 1: killed", again=False)
    for future in futures:
        (report,) = steering.answer(future)
        assert (report.kind, report.values) == ("failed", {"error": "rank 1: killed"})
    steering.lease(claim(2))
    (report,) = steering.answer(steering.go("lease2-0"))
    assert report.kind == "failed"
    assert steering.desk.waiting() == {}


def test_leases_of_a_lost_pack_go_on_in_another_that_is_open(steering: Steering):
    futures = started(steering, 1)
    steering.desk.open_pack(1, "all", 2)
    steering.desk.lose_pack(0, "killed", again=False)
    steering.desk.refuse("all", "killed")
    steering.settle()
    assert told(steering.exchange(1, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
    steering.lease(claim(1))
    steering.go("lease1-0")
    steering.settle()
    assert told(steering.exchange(1, wait=True).result(PATIENCE_S)) == ["Admit lease1-0", "Go lease1-0"]
    assert not futures[0].done()
    steering.desk.lose_pack(1, "killed too", again=False)
    (report,) = steering.answer(futures[0])
    assert (report.kind, report.values) == ("failed", {"error": "killed too"})


def test_a_lost_group_that_still_asks_is_told_to_end(steering: Steering):
    started(steering, 1)
    steering.desk.lose_pack(0, "its node was lost", again=True)
    assert steering.exchange(0, [metrics(0, 1)]).result(PATIENCE_S) == [Close()]


def test_repeats_go_on_when_one_of_them_has_finished(steering: Steering):
    steering.desk.open_pack(0, "all", 2)
    steering.lease(claim(0, repeat=0), claim(0, repeat=1))
    both = steering.go("lease0-0", "lease0-1")
    steering.settle()
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S))[2:] == ["Go lease0-0", "Go lease0-1"]
    first = [Report("lease0-0", "finished", 3, {"num_tokens": 3}), Report("lease0-1", "metrics", 3, {"num_tokens": 2})]
    turn = steering.exchange(0, first, wait=True)
    assert steering.answer(both) == first
    other = steering.go("lease0-1")
    steering.settle()
    assert told(turn.result(PATIENCE_S)) == ["Go lease0-1"]
    last = Report("lease0-1", "finished", 4, {"num_tokens": 3})
    steering.exchange(0, [last], wait=True)
    assert steering.answer(other) == [last]
    assert steering.desk.held() == {0: 0}


@pytest.mark.parametrize("knows_its_pack", [True, False], ids=["lost", "failed before it offered a slot"])
def test_leases_whose_first_pack_was_closed_for_others_are_served_by_the_next_and_fail_with_it(
    steering: Steering, knows_its_pack: bool
):
    steering.desk.open_pack(0, "all", 1)
    steering.desk.close_pack(0)
    assert told(steering.exchange(0, wait=True).result(PATIENCE_S)) == ["Close"]
    steering.lease(claim(0))
    future = steering.go("lease0-0")
    if knows_its_pack:
        steering.desk.open_pack(1, "all", 1)
        steering.settle()
        assert told(steering.exchange(1, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
    steering.desk.lose_pack(1, "killed", again=False)
    steering.desk.refuse("all", "killed")
    (report,) = steering.answer(future)
    assert (report.kind, report.values) == ("failed", {"error": "killed"})


def test_a_pack_that_is_lost_while_it_ends_and_started_again_refuses_nobody(steering: Steering):
    steering.desk.open_pack(0, "all", 1)
    steering.desk.close_pack(0)
    steering.lease(claim(0))
    steering.go("lease0-0")
    steering.settle()
    steering.desk.lose_pack(0, "killed", again=True)
    steering.desk.open_pack(1, "all", 1)
    steering.settle()
    assert told(steering.exchange(1, wait=True).result(PATIENCE_S)) == ["Admit lease0-0", "Go lease0-0"]
