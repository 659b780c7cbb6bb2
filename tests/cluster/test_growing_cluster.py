"""Clusters whose nodes come when a run asks for them, as on AWS: both of Ray's autoscalers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

from raylora.runtime.cluster.growth import CONFIGURATION
from tests.cluster.command import Command, wait_until
from tests.conftest import served
from tests.servers.ray import RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

HEAD_TYPE = "ray.head.default"
NOTHING_TO_RUN = {
    f"{part}_commands": []
    for part in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
}
CONFIG = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "head_node_type": HEAD_TYPE,
    "available_node_types": {
        HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    **NOTHING_TO_RUN,
}


HEAD_ID = "f" * 51 + "00000"
"""By which a provider of nodes on one machine knows the head."""


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[RayHead]:
    """Ray's first autoscaler, whose nodes never come."""
    (tmp_path / "autoscaling.json").write_text(json.dumps(CONFIG))
    words = [f"--autoscaling-config={tmp_path / 'autoscaling.json'}"]
    yield from served(RayHead(tmp_path, num_cpus=0, more=words, env={"RAY_FAKE_CLUSTER": "1"}))


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[RayHead]:
    """The autoscaler of `ray up`, with its file and variables; the nodes that it adds are raylets on this machine."""
    file = tmp_path / CONFIGURATION.name
    own = {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
    launchers = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_NODE_TYPE_NAME": HEAD_TYPE}
    head = RayHead(tmp_path, num_cpus=0, more=[f"--autoscaling-config={file}"], env=own | launchers)
    provider = {"head_node_id": HEAD_ID, "gcs_address": head.address, "launch_multiple": True}
    provider |= {"type": "external", "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"}
    file.write_text(json.dumps({**CONFIG, "provider": CONFIG["provider"] | provider}))
    yield from served(head)


def test_a_run_asks_for_nodes_and_waits_until_it_is_told_to_end(growing: RayHead, workplace: Path, tmp_path: Path):
    command = Command(workplace, tmp_path / "home", growing.env)
    running = command.start("train", "run.yaml", "--json")
    running.wait_for("waiting for the cluster to grow: it can hold 0 of 2 workers")
    log = growing.session / "session_latest" / "logs" / "monitor.log"
    wait_until(lambda: "Queue 2 new nodes for launch" in log.read_text(), 120)
    running.interrupt()
    ended = running.end(180)
    assert ended.code == 130, ended.err
    assert ended.left_behind == ()
    wait_until(lambda: growing.census() == {"actors": [], "groups": []}, 60)


def test_a_run_is_trained_on_the_nodes_that_it_asked_for(launched: RayHead, workplace: Path, tmp_path: Path):
    """And one that asks for more than there may ever be is refused before it waits."""
    command = Command(workplace, tmp_path / "home", launched.env | {"HOME": str(tmp_path)})
    refused = command.run("train", "run.yaml", "--json", "--set", "distributed.num_workers=3")
    assert refused.code == 2
    assert "3 workers of {'CPU': 1.0} asked, the cluster's 1 node(s) can hold 0, and 2 when its auto" in refused.error
    ended = command.run("train", "run.yaml", "--json")
    assert "waiting for the cluster to grow: it can hold 0 of 2 workers" in ended.err
    assert ended.code == 0, ended.err
    assert ended.json["num_workers"] == 2
