"""A cluster whose nodes come when a run asks for them, as on AWS: Ray's autoscaler, with nodes that never come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.command import Command, wait_until
from tests.conftest import served
from tests.servers.ray import RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

NOTHING_TO_RUN = {
    f"{part}_commands": []
    for part in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
}
CONFIG = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
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


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[RayHead]:
    (tmp_path / "autoscaling.json").write_text(json.dumps(CONFIG))
    words = [f"--autoscaling-config={tmp_path / 'autoscaling.json'}"]
    yield from served(RayHead(tmp_path, num_cpus=0, more=words, env={"RAY_FAKE_CLUSTER": "1"}))


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
