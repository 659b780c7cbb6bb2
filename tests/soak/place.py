"""Where runs and sweeps are soaked: a cluster of one node with its servers, and one of two nodes on two hosts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.cluster.command import Command
from tests.cluster.two_hosts import MISSED_SOON, Second
from tests.servers.fault_proxy import fault_proxy
from tests.servers.host import two_hosts
from tests.servers.mlflow import MlflowServer
from tests.servers.postgres import PostgresServer, postgres
from tests.servers.process import Server
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server
from tests.soak.adapters import of_adapters
from tests.soak.nodes import of_nodes
from tests.soak.processes import of_processes
from tests.soak.saves import of_saves
from tests.soak.scene import Strike
from tests.soak.servers import of_database, of_servers
from tests.soak.subjects import RUN_ALONE
from tests.unit.store.disks import mounted

HOME_BYTES = 64 << 20


@dataclass(frozen=True)
class Place:
    """Everything that a run needs.

    Args:
        command: On the cluster.
        head: Of the cluster.
        store: URI below which stores are made.
        mlflow_uri: MLflow's, for whoever looks into it.
        faults: What can strike here, by name.
    """

    command: Command
    head: RayHead
    store: str
    mlflow_uri: str
    faults: Mapping[str, Strike]

    @property
    def mlflow(self) -> MlflowClient:
        """MLflow, past all that stands before it."""
        return MlflowClient(tracking_uri=self.mlflow_uri)


@contextmanager
def one_node(folder: Path) -> Iterator[Place]:
    """A node that holds two workers, S3 and MLflow behind proxies, PostgreSQL, and raylora's home on a small disk.

    Args:
        folder: With what is trained; everything is kept below it.
    """
    with ExitStack() as stack:
        folders = {name: folder / name for name in ("ray", "s3", "mlflow")}
        for each in folders.values():
            each.mkdir()
        s3, database = S3Server(folders["s3"]), _database(stack)
        mlflow = MlflowServer(folders["mlflow"], database.uri if database else None)
        s3_door, mlflow_door = (stack.enter_context(fault_proxy(uri)) for uri in (s3.endpoint, mlflow.uri))
        through_door = {**s3.env, "AWS_ENDPOINT_URL": s3_door.endpoint}
        head = RayHead(folders["ray"], env=through_door)  # not what this process has from the next line on
        os.environ.update(s3.env)  # it looks into the bucket past the proxy
        for server in (head, s3, mlflow):
            stack.enter_context(_serving(server))
        disk = _disk(folder / "home", stack)
        env = {**head.env, **through_door, "MLFLOW_TRACKING_URI": mlflow_door.endpoint}
        command = Command(folder, folder / "home", env)
        faults = {
            **of_processes(head, s3_door, command),
            **of_servers(head, s3, s3_door, mlflow, mlflow_door, disk),
            **(of_database(database, mlflow) if database else {}),
            **of_saves(head),
            **of_adapters(head, command, s3.uri(RUN_ALONE)),
        }
        yield Place(command, head, s3.uri(), mlflow.uri, faults)


@contextmanager
def two_nodes(folder: Path) -> Iterator[Place]:
    """Two nodes on two hosts, each of which holds one worker, with store and MLflow in a folder of both.

    Args:
        folder: As for one node.
    """
    own = Path(tempfile.mkdtemp(prefix="two-nodes-", dir=folder))
    logs, home = own / "logs", own / "home"
    logs.mkdir()
    home.mkdir()
    with two_hosts() as hosts, ExitStack() as stack:
        head = RayHead(own, num_cpus=1, host=hosts[0], env=MISSED_SOON)
        stack.enter_context(_serving(head))
        second = Second(hosts, head, logs)
        second.come()
        stack.callback(second.die)
        command = Command(folder, home, head.env, door=hosts[0].door)
        yield Place(command, head, str(own / "store"), f"sqlite:///{home / 'mlflow.db'}", of_nodes(head, second))


@contextmanager
def _serving(server: Server) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()


def _database(stack: ExitStack) -> PostgresServer | None:
    """One that serves, where this machine has it; else MLflow has a file."""
    try:
        return stack.enter_context(postgres())
    except pytest.skip.Exception as lacking:
        print(f"soak: no database that can be stopped: {lacking}", flush=True)
        return None


def _disk(folder: Path, stack: ExitStack) -> Path | None:
    """A small one, where this machine lets it be mounted; else a folder."""
    try:
        return stack.enter_context(mounted(folder, HOME_BYTES))
    except pytest.skip.Exception as lacking:
        print(f"soak: no disk that can be filled: {lacking}", flush=True)
        return None
