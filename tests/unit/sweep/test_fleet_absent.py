"""What a fleet does for trials whose pack lost its nodes: they go on elsewhere, they wait, or the sweep ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raylora.errors import LostClusterError
from raylora.sweep import absences
from raylora.sweep import fleet as fleet_module
from tests.unit.runtime.steering import PATIENCE_S, Steering, claim, told
from tests.unit.sweep.staged_fleet import OUR_JOB, Group, berth, fleet_with_an_open_pack, groups, steering

__all__ = ["groups", "steering"]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for nodes that are gone."""
    monkeypatch.setattr(absences, "COMING_S", 0.0)
    monkeypatch.setattr(absences, "GONE_S", 0.0)
    monkeypatch.setattr(fleet_module, "COMING_S", 0.0)
    monkeypatch.setattr(fleet_module, "LOOK_S", 0.0)
    monkeypatch.setattr(fleet_module, "TEND_S", 0.0)


def nodes_left(monkeypatch: pytest.MonkeyPatch, cores: float, *num_workers: int) -> None:
    """What is left of a cluster: a node, and groups of so many workers that have their room."""
    monkeypatch.setattr(
        "raylora.runtime.cluster.gangs.ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": cores}}]
    )
    placed = {
        f"a{number}{OUR_JOB}": {"state": "CREATED", "bundles": {place: {"CPU": 1.0} for place in range(num)}}
        for number, num in enumerate(num_workers)
    }
    monkeypatch.setattr("raylora.runtime.cluster.gangs.placement_group_table", lambda: placed)


def test_trials_whose_nodes_do_not_come_back_go_on_in_another_pack_of_their_kind(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    """In population-based training its trials waited for theirs, which waited for their nodes, without end.

    Both packs ask for the same: Ray's table does not say which of them has its room.
    """
    nodes_left(monkeypatch, 1.0, 2)
    fleet, berths = fleet_with_an_open_pack(steering, "wide", berth(2))
    steering.settle()
    fleet.start("wide", berths["wide"].spec)
    steering.desk.open_pack(1, "wide", 4)
    fleet.tend(berths)
    assert not any(group.is_closed for group in groups)
    steering.desk.miss_pack(0)
    fleet.tend(berths)
    assert [group.is_closed for group in groups] == [True, False]
    assert told(steering.exchange(1, wait=True).result(PATIENCE_S)) == ["Admit lease0-0"]


def test_a_pack_in_the_way_is_closed_for_one_that_could_be_on_the_nodes_that_are_left(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    """The other one's trials have all ended; it kept its room, and nobody asked for that."""
    nodes_left(monkeypatch, 2.0, 1)
    free: dict[str, dict[str, float]] = {"n": {"CPU": 1.0}}
    state = SimpleNamespace(available_resources_per_node=lambda: free)
    monkeypatch.setattr("raylora.runtime.cluster.cluster.ray._private", SimpleNamespace(state=state))
    fleet, berths = fleet_with_an_open_pack(steering, "wide", berth(2))
    steering.settle()
    berths["narrow"] = berth(1)
    fleet.start("narrow", berths["narrow"].spec)
    steering.desk.open_pack(1, "narrow", 4)
    steering.desk.miss_pack(0)
    fleet.tend(berths)
    assert steering.desk.waiting() == {"wide": 1}
    assert told(steering.exchange(1, wait=True).result(PATIENCE_S)) == ["Close"]
    free["n"]["CPU"] = 2.0
    groups[1].has_ended = True
    for _ in range(2):
        fleet.tend(berths)
    assert [group.job and group.job.key for group in groups][2:] == ["wide"]


@pytest.mark.parametrize(
    ("num_others", "may_grow", "is_over"),
    [(0, False, True), (1, False, False), (0, True, False)],
    ids=["nobody else", "others train", "nodes may come"],
)
def test_a_sweep_of_which_nothing_can_train_without_nodes_that_are_gone_ends(
    groups: list[Group],
    steering: Steering,
    monkeypatch: pytest.MonkeyPatch,
    at_once: None,
    num_others: int,
    may_grow: bool,
    is_over: bool,
) -> None:
    """It can be resumed: its trials fail not for that."""
    nodes_left(monkeypatch, 1.0, 1)
    monkeypatch.setattr(fleet_module, "can_grow", lambda: may_grow)
    fleet, berths = fleet_with_an_open_pack(steering, "wide", berth(2))
    berths["narrow"] = berth(1)
    fleet.start("narrow", berths["narrow"].spec)
    steering.desk.open_pack(1, "narrow", 4)
    steering.lease(*(claim(1, key="narrow") for _ in range(num_others)))
    steering.settle()
    steering.desk.miss_pack(0)
    if is_over:
        with pytest.raises(LostClusterError, match=r"add nodes, then `raylora resume` goes on"):
            fleet.tend(berths)
    else:
        fleet.tend(berths)
    assert not any(group.is_closed for group in groups)
    assert steering.desk.held()[0] == 1, "its trial waits for it"


def test_workers_that_load_the_base_again_lack_no_room(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    """However long that takes."""
    nodes_left(monkeypatch, 2.0, 2)
    fleet, berths = fleet_with_an_open_pack(steering, "wide", berth(2))
    steering.settle()
    steering.desk.miss_pack(0)
    fleet.tend(berths)
    assert [group.is_closed for group in groups] == [False]
