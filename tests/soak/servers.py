"""Faults of what a cluster leans on: its S3, MLflow, and the disk of raylora's home."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.cluster.command import LONG_S
from tests.servers.fault_proxy import Fault, FaultProxy, Kind
from tests.servers.process import Server
from tests.servers.ray import RayHead
from tests.soak.scene import Scene, Strike, Struck
from tests.unit.store.disks import fill

METHODS = ("PUT", "GET", "DELETE", "POST", "HEAD")
TROUBLES: Mapping[str, tuple[Kind, Sequence[str]]] = {
    "requests that S3 answers with 503": ("busy", METHODS[:3]),
    "requests that S3 resets": ("reset", METHODS[:3]),
    "requests that S3 does as asked, and nobody hears of it": ("lost answer", METHODS[:3]),
    "answers of S3 that break off": ("cut answer", ("GET",)),
    "requests that S3 is silent to, and hangs up": ("stall", METHODS[:3]),
}
SILENT_S = 1.0
MISSED = "OperationalError"
"""SQLAlchemy's word for a database that does not answer."""


def of_servers(
    head: RayHead, s3: Server, s3_door: FaultProxy, mlflow: Server, mlflow_door: FaultProxy, disk: Path | None
) -> Mapping[str, Strike]:
    """Faults by name.

    Args:
        head: Of the cluster: what is a fault while somebody trains would be wrong input before.
        s3: The store.
        s3_door: Through which it is asked, and which counts what it does to requests.
        mlflow: The tracking server.
        mlflow_door: Through which that is asked.
        disk: A small one with raylora's home.
    """
    faults: dict[str, Strike] = {
        name: partial(_trouble, s3_door, kind, methods) for name, (kind, methods) in TROUBLES.items()
    }
    faults["S3's key expired"] = partial(_expire, head, s3_door)
    faults["S3 killed, and back after 4 to 10 s"] = partial(_restart, s3, s3_door)
    faults["MLflow killed, and back after 4 to 10 s"] = partial(_restart, mlflow, mlflow_door)
    if disk is not None:
        faults["the disk of raylora's home full for 2 to 6 s"] = partial(_fill, head, disk)
    return faults


def of_database(postgres: Server, mlflow: Server) -> Mapping[str, Strike]:
    """Faults of the database under MLflow, by name.

    Args:
        postgres: The database.
        mlflow: The tracking server, whose log says that it was asked in vain.
    """
    return {"PostgreSQL stopped, and back after 4 to 10 s": partial(_stop, postgres, mlflow)}


def _trouble(door: FaultProxy, kind: Kind, methods: Sequence[str], scene: Scene) -> Struck:
    method, times = scene.chance.choice(methods), scene.chance.randint(1, 5)
    fault = door.strike(Fault(kind, method, "", times=times, seconds=SILENT_S))
    return lambda: _withdrawn(fault)


def _withdrawn(*faults: Fault) -> int:
    """Have them strike no more; returns how often they did."""
    for fault in faults:
        fault.times = 0
    return sum(len(fault.struck) for fault in faults)


def _expire(head: RayHead, door: FaultProxy, scene: Scene) -> Struck | None:
    """There is another key when the driver has given up."""
    if not head.workers():
        return None
    faults = [door.strike(Fault("expired", method, "", times=10**6)) for method in METHODS]
    try:
        scene.running.process.wait(LONG_S)
    finally:
        struck = _withdrawn(*faults)
    return lambda: int(struck > 0)


def _restart(server: Server, door: FaultProxy, scene: Scene) -> Struck:
    """It has struck when somebody asked in vain."""
    before = len(door.unserved)
    server.stop(signal.SIGKILL)
    try:
        time.sleep(scene.chance.uniform(4.0, 10.0))
    finally:
        server.start()
    asked_in_vain = len(door.unserved) > before
    return lambda: int(asked_in_vain)


def _stop(postgres: Server, mlflow: Server, scene: Scene) -> Struck:
    """It has struck when MLflow missed it."""
    before = mlflow.log.read_text(errors="replace").count(MISSED)
    postgres.stop()
    try:
        time.sleep(scene.chance.uniform(4.0, 10.0))
    finally:
        postgres.start()
    return lambda: int(mlflow.log.read_text(errors="replace").count(MISSED) > before)


def _fill(head: RayHead, disk: Path, scene: Scene) -> Struck | None:
    """It has struck when somebody says so."""
    if not head.workers():
        return None
    before = len(scene.said)
    rest = fill(disk)
    time.sleep(scene.chance.uniform(2.0, 6.0))
    rest.unlink()
    return lambda: int("entries are kept in memory" in scene.said[before:])
