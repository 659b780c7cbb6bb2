"""How many workers a cluster's nodes can hold."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raylora.runtime.cluster.cluster import places, warn_without_gpus, worker_resources
from raylora.runtime.cluster.growth import is_managed
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
