"""A fleet over worker groups that train nothing and a cluster of one node; its desk is a real one."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from raylora.runtime.cluster.mailbox import PackJob
from raylora.runtime.pack.desk import Desk
from raylora.spec.run import RunSpec
from raylora.store.fence import Fence
from raylora.sweep import fleet as fleet_module
from raylora.sweep.fleet import Fleet
from raylora.sweep.planning.berths import Berth
from raylora.train.events import Event
from tests.unit.runtime.handles import Handle, NoRay
from tests.unit.runtime.steering import Steering, claim

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


def fleet_with_an_open_pack(steering: Steering, key: str, berth: Berth) -> tuple[Fleet, dict[str, Berth]]:
    """A fleet whose only pack trains a trial."""
    host: Any = Handle(steering.desk)
    fleet, berths = Fleet(host, 2, lambda pack, event: None), {key: berth}
    fleet.start(key, berth.spec)
    fleet.begin("store", Fence("store", 1, "s1"), berths)
    steering.desk.open_pack(0, key, 1)
    steering.lease(claim(0, key=key))
    return fleet, berths
