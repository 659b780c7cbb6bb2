"""Two hosts on one machine, and nodes of a cluster that come to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.host import Host, two_hosts
from tests.servers.process import Server
from tests.servers.ray import TOKEN, RayHead, asked, ray_start

MISSED_SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray itself gives a node that does not answer up after a minute."""
NODES = """
print(json.dumps({node["NodeManagerAddress"]: node["NodeID"] for node in state.node_table() if node["Alive"]}))
"""

NOTICE_S = 15
"""Between the word that a node will be taken away and its end."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as both:
        yield both


def second_node(host: Host, head: RayHead, log: Path, num_cpus: int = 1) -> Server:
    words = ray_start(f"--address={head.address}", f"--node-ip-address={host.address}", f"--num-cpus={num_cpus}")
    command = [*host.door, *words]
    server = Server(command, log, lambda: "Ray runtime started" in log.read_text(), env=head.server_env)
    server.start()
    return server


def announce(hosts: tuple[Host, Host], head: RayHead) -> float:
    """Tell the cluster that its second node will be taken away; returns when, on the monotonic clock."""
    env = os.environ | TOKEN
    node_id = json.loads(asked(head.address, NODES, env, hosts[0].door))[hosts[1].address]
    words = (f"--address={head.address}", f"--node-id={node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION")
    more = ("--reason-message=taken back", f"--deadline-remaining-seconds={NOTICE_S}")
    ray = Path(sysconfig.get_path("scripts")) / "ray"
    command = [*hosts[0].door, sys.executable, str(ray), "drain-node", *words, *more]
    deadline = time.monotonic() + NOTICE_S  # Ray counts from when the command has started
    subprocess.run(command, env=env, capture_output=True, check=True, timeout=60)
    return deadline
