"""When the driver of a sweep rests until a trial answers, and when it may not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from raylora.sweep import seats as seats_module
from raylora.sweep.seats import Seats
from tests.unit.runtime.handles import Handle


class Waits:
    """Ray that notes how long it was asked to wait, and has no answer."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def wait(self, futures: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self.asked.append(timeout)
        return [], futures


class Host:
    """Takes orders, and what is said of them."""

    def __init__(self) -> None:
        self.said: list[tuple[int, int]] = []

    def order(self, *order: Any) -> None: ...

    def settle(self, num_orders: int, num_open: int) -> None:
        self.said.append((num_orders, num_open))


def test_it_rests_only_when_the_desk_knows_of_all_orders(monkeypatch: pytest.MonkeyPatch):
    ray, host, pending = Waits(), Host(), ["an answer"]
    monkeypatch.setattr(seats_module, "ray", ray)
    events = SimpleNamespace(get_futures=lambda: pending), SimpleNamespace(get_futures=lambda: [])
    manager = SimpleNamespace(_actor_task_events=events[0], _actor_state_events=events[1])
    controller = SimpleNamespace(_actor_manager=manager, get_trials=lambda: [])
    seats = Seats(cast("Any", Handle(host)), 4, lambda trial_id: 0)
    seats.serve(cast("Any", controller))

    seats.get_resource_futures()  # Tune's last question before it waits: the desk is told
    ray.asked.clear()
    seats.rest(0.4)
    assert (host.said, ray.asked) == ([(0, 1)], [0.4])

    seats.order("trial0-0", "train", (), {})  # an order the desk has not heard to be the last
    seats.rest(0.4)
    assert ray.asked == [0.4]

    pending.clear()
    seats.get_resource_futures()
    seats.rest(0.4)
    assert ray.asked == [0.4], "nothing to wait for"
