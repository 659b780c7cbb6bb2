"""Two hosts on one machine, and nodes of a cluster that come to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.host import Host, two_hosts
from tests.servers.process import Server
from tests.servers.ray import RayHead, ray_start

MISSED_SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray itself gives a node that does not answer up after a minute."""
NODES = """
print(json.dumps({node["NodeManagerAddress"]: node["NodeID"] for node in state.node_table() if node["Alive"]}))
"""


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
