"""What a fleet does for leases of runs that no plan foresaw: a pack where the cluster may hold one, a refusal else."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from raylora.errors import LostClusterError, RayloraError, UnusableStoreError
from raylora.store.fence import Fence
from raylora.sweep import fleet as fleet_module
from raylora.sweep.fleet import Fleet
from tests.unit.runtime.handles import Handle
from tests.unit.runtime.steering import Steering, claim
from tests.unit.sweep.staged_fleet import OUR_JOB, Group, berth, fleet_with_an_open_pack, groups, steering

__all__ = ["groups", "steering"]


def test_a_run_with_more_workers_than_the_cluster_can_hold_fails_alone(groups: list[Group], steering: Steering) -> None:
    host: Any = Handle(steering.desk)
    fleet = Fleet(host, 2, lambda pack, event: None)
    fleet.begin("store", Fence("store", 1, "s1"), {})
    steering.lease(claim(0, key="wide"))
    steering.lease(claim(1, key="narrow"))
    wide = steering.go("lease0-0")
    berths = {"wide": berth(4), "narrow": berth(1)}
    fleet.tend(berths)
    (report,) = steering.answer(wide)
    assert report.kind == "failed"
    assert report.values["error"].startswith("distributed.num_workers: 4 workers of")
    assert "can hold 2" in report.values["error"]
    assert steering.desk.waiting() == {"narrow": 1}
    (group,) = groups
    assert group.spec == berths["narrow"].spec
    assert group.job is not None and group.job.key == "narrow"


def test_a_pack_is_opened_for_nodes_that_may_come(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("raylora.runtime.cluster.cluster", "raylora.sweep.fleet"):
        monkeypatch.setattr(f"{place}.can_grow", lambda: True)
    monkeypatch.setattr("raylora.runtime.cluster.cluster.room", lambda: None)  # how far is not known
    host: Any = Handle(steering.desk)
    fleet = Fleet(host, 2, lambda pack, event: None)
    fleet.begin("store", Fence("store", 1, "s1"), {})
    steering.lease(claim(0, key="wide"))
    fleet.tend({"wide": berth(4)})
    (group,) = groups
    assert group.job is not None and group.job.key == "wide"
    assert steering.desk.waiting() == {"wide": 1}


@pytest.mark.parametrize(
    ("waiting", "keys"), [(f"aa{OUR_JOB}", ["wide", "narrow"]), ("aa02000000", ["wide"]), (None, ["wide"])]
)
def test_a_pack_that_finds_no_room_keeps_no_smaller_one_waiting(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch, waiting: str | None, keys: list[str]
) -> None:
    """The wide one was started when somebody else's job held a core; until its workers ask, none can tell.

    A stranger's group of as many workers says nothing of it.
    """
    asked = {"state": "PENDING", "bundles": {0: {"CPU": 1.0}, 1: {"CPU": 1.0}}}
    monkeypatch.setattr(
        "raylora.runtime.cluster.gangs.placement_group_table", lambda: {waiting: asked} if waiting else {}
    )
    host: Any = Handle(steering.desk)
    fleet, berths = Fleet(host, 2, lambda pack, event: None), {"wide": berth(2), "narrow": berth(1)}
    fleet.start("wide", berths["wide"].spec)
    fleet.begin("store", Fence("store", 1, "s1"), berths)
    steering.lease(claim(0, key="wide"))
    steering.lease(claim(1, key="narrow"))
    fleet.tend(berths)
    assert [group.job and group.job.key for group in groups] == keys


@pytest.mark.parametrize(("state", "keys"), [("CREATED", ["narrow", "other"]), ("REMOVED", ["narrow"])])
def test_a_pack_starts_beside_one_that_starts_once_that_has_its_room(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch, state: str, keys: list[str]
) -> None:
    """All waited while one loaded; before it has its room, another could take it, and both would wait."""
    placed = {f"aa{OUR_JOB}": {"state": state, "bundles": {0: {"CPU": 1.0}}}}
    monkeypatch.setattr("raylora.runtime.cluster.gangs.placement_group_table", lambda: placed)
    host: Any = Handle(steering.desk)
    fleet = Fleet(host, 2, lambda pack, event: None)
    berths = {"narrow": berth(1), "other": replace(berth(1), family="other")}
    fleet.start("narrow", berths["narrow"].spec)
    fleet.begin("store", Fence("store", 1, "s1"), berths)
    steering.lease(claim(0, key="narrow"))
    steering.lease(claim(1, key="other"))
    fleet.tend(berths)
    assert [group.job and group.job.key for group in groups] == keys


@pytest.mark.parametrize(("state", "keys"), [("CREATED", ["narrow", "other"]), ("REMOVED", ["narrow"])])
def test_room_of_workers_that_are_being_restarted_is_taken_by_no_other_pack(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch, state: str, keys: list[str]
) -> None:
    """It was: what their trials were asked to save nobody saved, for which Tune, and with it the other pack, waited."""
    placed = {f"aa{OUR_JOB}": {"state": state, "bundles": {0: {"CPU": 1.0}}}}
    monkeypatch.setattr("raylora.runtime.cluster.gangs.placement_group_table", lambda: placed)
    fleet, berths = fleet_with_an_open_pack(steering, "narrow", berth(1))
    steering.lease(claim(1, key="other"))
    fleet.tend(berths | {"other": replace(berth(1), family="other")})
    assert [group.job and group.job.key for group in groups] == keys


@pytest.mark.parametrize(
    ("cores", "coming_s", "keys"),
    [(1.0, 0.0, ["wide", "narrow"]), (1.0, 300.0, ["wide"]), (2.0, 0.0, ["wide"])],
    ids=["gone", "may come back", "busy"],
)
def test_room_is_kept_only_while_a_pack_that_lost_its_own_could_be_there_again(
    groups: list[Group],
    steering: Steering,
    monkeypatch: pytest.MonkeyPatch,
    cores: float,
    coming_s: float,
    keys: list[str],
) -> None:
    """The wide one's workers were on a node that was lost; what is left holds them again, or never."""
    left = [{"Alive": False, "Resources": {"CPU": 2.0}}, {"Alive": True, "Resources": {"CPU": cores}}]
    monkeypatch.setattr("raylora.runtime.cluster.gangs.ray.nodes", lambda: left)
    monkeypatch.setattr(fleet_module, "COMING_S", coming_s)
    lost = {f"aa{OUR_JOB}": {"state": "RESCHEDULING", "bundles": {0: {"CPU": 1.0}, 1: {"CPU": 1.0}}}}
    monkeypatch.setattr("raylora.runtime.cluster.gangs.placement_group_table", lambda: lost)
    fleet, berths = fleet_with_an_open_pack(steering, "wide", berth(2))
    steering.lease(claim(1, key="narrow"))
    fleet.tend(berths | {"narrow": berth(1)})
    assert [group.job and group.job.key for group in groups] == keys


@pytest.mark.parametrize(("num_leases", "keys"), [(1, ["narrow"]), (0, ["narrow", "other"])])
def test_room_is_kept_for_a_pack_that_is_lost_only_where_it_has_leases(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch, num_leases: int, keys: list[str]
) -> None:
    """Its next workers ask for room that there is not yet; nobody waits for those of an idle one."""
    asked = {f"aa{OUR_JOB}": {"state": "PENDING", "bundles": {0: {"CPU": 1.0}}}}
    monkeypatch.setattr("raylora.runtime.cluster.gangs.placement_group_table", lambda: asked)
    fleet, berths = fleet_with_an_open_pack(steering, "narrow", berth(1))
    steering.settle()
    steering.desk.free(["lease0-0"][num_leases:])
    steering.desk.miss_pack(0)
    steering.lease(claim(1, key="other"))
    fleet.tend(berths | {"other": replace(berth(1), family="other")})
    assert [group.job and group.job.key for group in groups] == keys


def test_the_end_of_a_sweep_waits_for_no_idle_pack_that_is_lost(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be told to end when it is back, and is waited for by nobody else."""
    monkeypatch.setattr(
        fleet_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda s: pytest.fail("it waits"))
    )
    fleet, _ = fleet_with_an_open_pack(steering, "narrow", berth(1))
    steering.desk.free(["lease0-0"])
    steering.desk.miss_pack(0)
    fleet.end()
    (group,) = groups
    assert group.is_closed


def test_a_group_of_another_size_says_nothing_of_a_pack_that_lacks_its_room(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another command's in the same process: Ray calls both one job."""
    others = {f"aa{OUR_JOB}": {"state": "CREATED", "bundles": {0: {"CPU": 1.0}, 1: {"CPU": 1.0}}}}
    monkeypatch.setattr("raylora.runtime.cluster.gangs.placement_group_table", lambda: others)
    fleet, berths = fleet_with_an_open_pack(steering, "narrow", berth(1))
    steering.lease(claim(1, key="other"))
    fleet.tend(berths | {"other": replace(berth(1), family="other")})
    assert [group.job and group.job.key for group in groups] == ["narrow"]


class Ended(Group):
    """Workers that are gone."""

    running = lost_controller = False
    error: RayloraError

    def check(self) -> None:
        raise self.error

    def close(self) -> None:
        """Nobody is left."""


class Orphaned(Ended):
    """Their controller died: what it had reserved is held until the driver ends, and another pack would wait for it."""

    lost_controller = True
    error = LostClusterError("Ray Train gave up: the actor died")


class Refused(Ended):
    """The store takes nothing, and would take nothing from another pack."""

    error = UnusableStoreError("rank 0: the disk is full")


@pytest.mark.parametrize("group", [Orphaned, Refused])
def test_a_pack_whose_end_is_no_trials_fault_ends_the_search_and_fails_none(
    groups: list[Group], steering: Steering, monkeypatch: pytest.MonkeyPatch, group: type[Ended]
) -> None:
    monkeypatch.setattr(fleet_module, "PackGroup", group)
    host: Any = Handle(steering.desk)
    fleet, berths = Fleet(host, 2, lambda pack, event: None), {"wide": berth(2)}
    fleet.start("wide", berths["wide"].spec)
    fleet.begin("store", Fence("store", 1, "s1"), berths)
    steering.desk.open_pack(0, "wide", 4)
    steering.lease(claim(0, key="wide"))
    answer = steering.go("lease0-0")
    with pytest.raises(type(group.error), match=rf"^pack 0: {group.error}; `raylora resume` goes on"):
        fleet.tend(berths)
    assert not answer.done()
    steering.desk.free(["lease0-0"])
    fleet.end()  # a search that is over does not mind
