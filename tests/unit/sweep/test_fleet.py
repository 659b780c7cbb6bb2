"""What a fleet does for leases of runs that no plan foresaw: a pack where the cluster may hold one, a refusal else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from raylora.errors import LostClusterError, RayloraError, UnusableStoreError
from raylora.runtime.cluster.mailbox import PackJob
from raylora.runtime.pack.desk import Desk
from raylora.spec.run import RunSpec
from raylora.store.fence import Fence
from raylora.sweep import absences
from raylora.sweep import fleet as fleet_module
from raylora.sweep.fleet import Fleet
from raylora.sweep.planning.berths import Berth
from raylora.train.events import Event
from tests.unit.runtime.handles import Handle, NoRay
from tests.unit.runtime.steering import PATIENCE_S, Steering, claim, told

OUR_JOB = "01000000"
"""Ray's ids of placement groups end with that of the job that asked."""


class Group:
    """A pack's workers: only who was started and who was told to begin."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.job: PackJob | None = None
        self.is_closed = self.has_ended = False

    def begin(self, job: PackJob) -> None:
        self.job = job

    @property
    def running(self) -> bool:
        return not self.has_ended

    def check(self) -> None:
        """It ended as it was told to."""

    def events(self) -> list[Event]:
        return []

    def close(self) -> None:
        self.is_closed = True


def berth(num_workers: int) -> Berth:
    place = {"num_workers": num_workers, "gpus_per_worker": 0}
    spec = RunSpec.model_validate({"base_model": "m", "datasets": [{"path": "d.jsonl"}], "distributed": place})
    return Berth(spec, str(num_workers), 1, num_slots=4, slots_stay_on_ranks=False, calibrates=True)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """The worker groups that were started; there is one node with two cores, both free, and nobody waits for any."""
    cores = {"CPU": 2.0}
    state = SimpleNamespace(available_resources_per_node=lambda: {"n": cores})
    job = SimpleNamespace(get_job_id=lambda: OUR_JOB)
    ray = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": cores}],
        get_runtime_context=lambda: job,
        _private=SimpleNamespace(state=state),
    )
    for place in ("cluster", "gangs"):
        monkeypatch.setattr(f"raylora.runtime.cluster.{place}.ray", ray)
    for place in ("raylora.runtime.cluster.cluster", "raylora.sweep.fleet"):
        monkeypatch.setattr(f"{place}.can_grow", lambda: False)
    monkeypatch.setattr("raylora.runtime.cluster.gangs.placement_group_table", dict)
    monkeypatch.setattr(fleet_module, "ray", NoRay)
    monkeypatch.setattr(fleet_module, "OPEN_PATIENCE_S", 0.0)
    started: list[Group] = []

    def start(spec: RunSpec) -> Group:
        started.append(Group(spec))
        return started[-1]

    monkeypatch.setattr(fleet_module, "PackGroup", start)
    return started


@pytest.fixture
def steering() -> Iterator[Steering]:
    steering = Steering(Desk())
    yield steering
    steering.desk.free(["lease0-0", "lease1-0"])
    steering.pool.shutdown(wait=True, cancel_futures=True)


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


def fleet_with_an_open_pack(steering: Steering, key: str, berth: Berth) -> tuple[Fleet, dict[str, Berth]]:
    """A fleet whose only pack trains a trial."""
    host: Any = Handle(steering.desk)
    fleet, berths = Fleet(host, 2, lambda pack, event: None), {key: berth}
    fleet.start(key, berth.spec)
    fleet.begin("store", Fence("store", 1, "s1"), berths)
    steering.desk.open_pack(0, key, 1)
    steering.lease(claim(0, key=key))
    return fleet, berths


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
