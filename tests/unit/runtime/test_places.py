"""How many workers a cluster's nodes can hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raylora.errors import InputError
from raylora.runtime.cluster.cluster import check_places, places, warn_without_gpus, worker_resources
from raylora.runtime.cluster.growth import Room, is_managed, room_of
from tests.unit.model.tiny import spec_of


@pytest.mark.parametrize(
    ("node", "needed", "expected"),
    [
        ({"CPU": 4.0}, {"CPU": 1.0}, 4),
        ({"CPU": 4.0}, {"CPU": 1.5}, 2),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}, 2),
        ({"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}, 0),
        ({"CPU": 8.0, "accelerator_type:H100": 1.0}, {"CPU": 1.0, "accelerator_type:H100": 0.001}, 8),
    ],
)
def test_a_node_holds_as_many_as_its_scarcest_resource_allows(
    node: dict[str, float], needed: dict[str, float], expected: int
):
    assert places(node, needed) == expected


@pytest.mark.parametrize(
    ("asked", "has_gpus", "num_gpus"), [(None, True, 1), (None, False, 0), (1, False, 1), (0, True, 0)]
)
def test_a_worker_takes_a_gpu_where_the_run_says_so_or_else_where_there_are_any(
    asked: int | None, has_gpus: bool, num_gpus: int
):
    place = {"gpus_per_worker": asked, "cpus_per_worker": 2, "resources_per_worker": {"fast": 0.5}}
    found = worker_resources(spec_of("base", distributed=place), has_gpus)
    assert found == {"CPU": 2.0, "fast": 0.5} | ({"GPU": 1.0} if num_gpus else {})


def test_a_configured_node_type_is_told_from_an_observers_name():
    observed = {"ffff0": "node_ffff0", "ffff1": "node_ffff1"}
    assert not is_managed(observed)
    assert not is_managed({})
    assert is_managed({"10.0.0.1": "head"})
    assert is_managed(observed | {"10.0.0.2": "gpu"})


SMALL, LARGE = {"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("kinds", "there", "added"),
    [
        ({"gpu": {"resources": LARGE, "max_workers": 2}}, {}, (LARGE, LARGE)),
        ({"gpu": {"resources": LARGE}, "cpu": {"resources": SMALL, "max_workers": 1}}, {}, (LARGE,) * 3 + (SMALL,)),
        ({"gpu": {"resources": LARGE, "max_workers": 9}}, {"gpu": [LARGE]}, (LARGE,) * 3),
        ({"own": {"resources": {}, "max_workers": 2}}, {"own": [LARGE, SMALL]}, (LARGE, SMALL)),
        ({"own": {"resources": {}, "max_workers": 2}}, {"own": [LARGE]}, None),
        ({"head": {"resources": {}, "max_workers": 0}}, {}, ()),
    ],
    ids=["as many as a type may have", "types", "no more than the cluster may", "hosts", "a host to come", "none"],
)
def test_what_a_cluster_may_grow_to_is_what_its_configuration_says(
    kinds: dict[str, Any], there: dict[str, list[dict[str, float]]], added: tuple[dict[str, float], ...] | None
):
    found = room_of({"max_workers": 3, "available_node_types": kinds}, SMALL, there)
    assert found == (None if added is None else Room(SMALL, added, at_once=3))


@pytest.mark.parametrize(("asked", "fits"), [(4, True), (5, False)])
def test_more_workers_than_a_growing_cluster_can_ever_hold_are_refused(
    monkeypatch: pytest.MonkeyPatch, asked: int, fits: bool
):
    """Two on its head; of the nodes that may come, one at a time, the best holds two."""
    there = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": SMALL}])
    monkeypatch.setattr("raylora.runtime.cluster.cluster.ray", there)
    monkeypatch.setattr("raylora.runtime.cluster.cluster.can_grow", lambda: True)
    monkeypatch.setattr("raylora.runtime.cluster.cluster.room", lambda: Room(SMALL, ({"CPU": 1.0}, SMALL), at_once=1))
    spec = spec_of("base", distributed={"num_workers": asked, "gpus_per_worker": 0})
    if fits:
        check_places(spec)
        return
    with pytest.raises(InputError, match="can hold 2, and 4 when its autoscaler has added all"):
        check_places(spec)


@pytest.mark.parametrize(
    ("asked", "address", "has_gpu", "grows", "warns"),
    [
        (None, "auto", False, True, True),
        (None, "auto", True, True, False),
        (None, "auto", False, False, False),
        (None, None, False, True, False),
        (0, "auto", False, True, False),
    ],
    ids=["may come", "are there", "never come", "on this machine", "not wanted"],
)
def test_who_goes_without_a_gpu_that_may_yet_come_is_told(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: int | None,
    address: str | None,
    has_gpu: bool,
    grows: bool,
    warns: bool,
):
    there = {"CPU": 4.0} | ({"GPU": 1.0} if has_gpu else {})
    monkeypatch.setattr("raylora.runtime.cluster.cluster.ray", SimpleNamespace(cluster_resources=lambda: there))
    monkeypatch.setattr("raylora.runtime.cluster.cluster.can_grow", lambda: grows)
    warn_without_gpus(spec_of("base", distributed={"gpus_per_worker": asked}, ray={"address": address}))
    assert ("set gpus_per_worker: 1" in caplog.text) == warns
