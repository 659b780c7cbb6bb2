"""Two hosts on one machine, and nodes of a cluster that come to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.command import wait_until
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


class Second:
    """The second node, which goes and comes back; the cluster has noticed that it is gone when a way to go returns.

    Args:
        hosts: Of the head and of this node.
        head: Of the cluster.
        logs: An empty folder for its logs, one for each time that it comes.
        num_cpus: Workers it may hold.
    """

    def __init__(self, hosts: tuple[Host, Host], head: RayHead, logs: Path, num_cpus: int = 1) -> None:
        self._hosts, self._host, self._head = hosts, hosts[1], head
        self._logs, self._num_cpus = logs, num_cpus
        self._node: Server | None = None

    def come(self) -> None:
        number = len(list(self._logs.iterdir()))
        self._node = second_node(self._host, self._head, self._logs / f"{number}.log", self._num_cpus)

    def die(self) -> None:
        """All its processes are killed."""
        self._kill()
        self._wait_until_missed()

    def lose_its_link(self) -> None:
        """Until it is given up; then there is a link again, by which it hears of that and ends by itself."""
        self._host.cut_off()
        self._wait_until_missed()
        self._host.link_up()
        self._wait_until_ended()

    def lose_its_raylet(self) -> None:
        """That process alone is killed; the others of the node end by themselves."""
        (raylet,) = (process for process in self._processes() if process.name() == "raylet")
        raylet.kill()
        self._wait_until_missed()
        self._wait_until_ended()

    def announce_its_end(self) -> float:
        """Tell the cluster that it will be taken away; returns when, on the monotonic clock."""
        return announce(self._hosts, self._head)

    def has(self, worker: psutil.Process) -> bool:
        """Whether a process is one of its own."""
        assert self._node is not None and self._node.process is not None
        return self._node.process.pid in {parent.pid for parent in worker.parents()}

    def _processes(self) -> list[psutil.Process]:
        assert self._node is not None and self._node.process is not None
        return psutil.Process(self._node.process.pid).children(recursive=True)

    def _kill(self) -> None:
        if self._node is not None:
            self._node.stop(signal.SIGKILL)

    def _wait_until_missed(self) -> None:
        wait_until(lambda: self._host.address not in nodes(self._hosts[0], self._head), 60)

    def _wait_until_ended(self) -> None:
        assert self._node is not None and self._node.process is not None
        self._node.process.wait(90)
        self._kill()


def nodes(host: Host, head: RayHead) -> dict[str, str]:
    """Ids of a cluster's nodes by their addresses, asked on the host of its head."""
    alive: dict[str, str] = json.loads(asked(head.address, NODES, os.environ | TOKEN, host.door))
    return alive


def announce(hosts: tuple[Host, Host], head: RayHead) -> float:
    """Tell the cluster that its second node will be taken away; returns when, on the monotonic clock."""
    env = os.environ | TOKEN
    node_id = nodes(hosts[0], head)[hosts[1].address]
    words = (f"--address={head.address}", f"--node-id={node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION")
    more = ("--reason-message=taken back", f"--deadline-remaining-seconds={NOTICE_S}")
    ray = Path(sysconfig.get_path("scripts")) / "ray"
    command = [*hosts[0].door, sys.executable, str(ray), "drain-node", *words, *more]
    deadline = time.monotonic() + NOTICE_S  # Ray counts from when the command has started
    subprocess.run(command, env=env, capture_output=True, check=True, timeout=60)
    return deadline
