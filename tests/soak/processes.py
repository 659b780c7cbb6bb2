"""Faults of processes: workers, Ray Train's controller, the driver, the head node; killed, stopped or told to end."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial

import psutil

from raylora.store.checkpoint import TENSORS
from raylora.store.manifest import MANIFEST
from tests.cluster.command import LONG_S
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.ray import RayHead
from tests.soak.scene import Scene, Strike, Struck

KILLED = (-signal.SIGKILL,)
TOLD_TO_END = (130, -signal.SIGTERM)
"""Before it has begun to listen, a driver ends as any process does."""
GONE_S = 10.0
SAVE_S = 15.0
"""A save is due sooner, where something trains."""


def of_processes(head: RayHead, s3: FaultProxy) -> Mapping[str, Strike]:
    """Faults by name.

    Args:
        head: The cluster.
        s3: Between it and its store.
    """
    return {
        "a worker killed": lambda scene: kill_a_worker(head, scene.chance),
        "a worker stopped": lambda scene: _stop_a_worker(head, scene.chance),
        "a worker killed while a save is on its way": partial(_kill_in_a_save, head, s3),
        "Ray Train's controller killed": lambda scene: _kill_the_controller(head),
        "the driver killed": kill_the_driver,
        "the driver told to end, by SIGTERM": partial(_signal_the_driver, signal.SIGTERM, TOLD_TO_END),
        "the head node killed": partial(_kill_the_head, head),
    }


def kill_a_worker(head: RayHead, chance: random.Random) -> Struck | None:
    worker = _a_worker(head, chance)
    return None if worker is None else _killed(worker)


def kill_the_driver(scene: Scene) -> Struck | None:
    return _signal_the_driver(signal.SIGKILL, KILLED, scene)


def _a_worker(head: RayHead, chance: random.Random) -> psutil.Process | None:
    # Process ids are given anew: none is struck that is not of this cluster.
    living = {process.pid: process for process in head.processes_of("")}
    workers = [living[pid] for pid in sorted(head.workers()) if pid in living]
    return chance.choice(workers) if workers else None


def _killed(process: psutil.Process) -> Struck | None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return None
    psutil.wait_procs([process], GONE_S)
    return lambda: int(not process.is_running())


def _stop_a_worker(head: RayHead, chance: random.Random) -> Struck | None:
    """It has struck when another has taken its place."""
    worker = _a_worker(head, chance)
    if worker is None:
        return None
    with suppress(psutil.NoSuchProcess):
        worker.suspend()
        return lambda: int(not worker.is_running())
    return None


def _kill_in_a_save(head: RayHead, s3: FaultProxy, scene: Scene) -> Struck | None:
    """While the tensors are on their way, or when nothing but the manifest is missing."""
    held = s3.strike(Fault("hold", "PUT", "/" + scene.chance.choice((TENSORS, MANIFEST))))
    struck = kill_a_worker(head, scene.chance) if held.met.wait(SAVE_S) else None
    if struck is None:
        held.times = 0
        held.go.set()
    return struck


def _kill_the_controller(head: RayHead) -> Struck | None:
    for controller in head.processes_of("TrainController"):
        return _killed(controller)
    return None


def _signal_the_driver(number: signal.Signals, codes: Collection[int], scene: Scene) -> Struck | None:
    """It has struck when the driver ended by it."""
    start = len(scene.ended)
    try:
        os.kill(scene.running.process.pid, number)
    except ProcessLookupError:
        return None
    return lambda: int(scene.ended[start].code in codes)


def _kill_the_head(head: RayHead, scene: Scene) -> Struck | None:
    """It comes back when the driver has given up, as another cluster."""
    start = len(scene.ended)
    head.stop(signal.SIGKILL)
    try:
        scene.running.process.wait(LONG_S)
    finally:
        head.start()
    return lambda: int(scene.ended[start].code != 0)
