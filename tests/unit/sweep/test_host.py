"""Groups of workers that come one after the other for one pack, as the host tells them apart."""

from __future__ import annotations

from raylora.runtime.cluster.desk_messages import Admit, Close
from raylora.sweep.steering.host import Host
from tests.unit.runtime.steering import claim
from tests.unit.sweep.simulated_trials import SimulatedTrials

FIRST, SECOND = "00000001", "00000002"


def test_a_group_that_wakes_up_when_another_has_its_place_takes_none_of_its_commands():
    """Its node was frozen, or cut off: nobody could end it."""
    host = Host()
    host._desk.lease([claim(0)])
    host.open_pack(0, FIRST, "all", 1)
    host.settle(0, 0)
    (admit,) = host.exchange(0, FIRST, [], True)
    assert isinstance(admit, Admit)
    host.open_pack(0, SECOND, "all", 1)
    assert host.exchange(0, FIRST, [], True) == [Close()]
    assert host.exchange(0, SECOND, [], True) == [admit]


def test_a_group_that_wakes_before_it_opens_its_pack_does_not_take_it_from_the_one_in_its_place():
    host = Host()
    host._desk.lease([claim(0)])
    host.open_pack(0, SECOND, "all", 1)
    host.settle(0, 0)
    host.open_pack(0, FIRST, "all", 1)
    assert host.exchange(0, FIRST, [], True) == [Close()]
    (admit,) = host.exchange(0, SECOND, [], True)
    assert isinstance(admit, Admit)


def test_a_question_on_its_way_while_its_lease_is_stopped_is_answered():
    """Tune asks where a trial is when it begins, and reads the answer when it ends without a report."""
    host, question = Host(), ("one", "get_auto_filled_metrics", (), {"debug_metrics_only": True})
    host._trials = SimulatedTrials(2)
    host.make("one", 0, {"config": {"learning_rate": 1e-3}, "storage": None}, None)
    assert host.ask(*question)["pid"]
    host.order("one", "stop", (), {})
    assert host.ask(*question) == {}
