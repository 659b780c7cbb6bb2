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
from raylora.store.runs import list_runs
from raylora.store.sweeps import list_sweeps
from tests.cluster.command import LONG_S, Command, wait_until
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.ray import RayHead
from tests.soak.scene import Scene, Strike, Struck

KILLED = (-signal.SIGKILL,)
TOLD_TO_END = (130, -signal.SIGTERM)
"""Before it has begun to listen, a driver ends as any process does."""
GONE_S = 10.0
SAVE_S = 15.0
"""A save is due sooner, where something trains."""
LOOKED_S = 60.0
"""A supervisor starts, and looks at the store every ten seconds."""


def of_processes(head: RayHead, s3: FaultProxy, command: Command) -> Mapping[str, Strike]:
    """Faults by name.

    Args:
        head: The cluster.
        s3: Between it and its store.
        command: On the cluster.
    """
    return {
        "a worker killed": lambda scene: kill_a_worker(head, scene.chance),
        "a worker stopped": lambda scene: _stop_a_worker(head, scene.chance),
        "a worker killed while a save is on its way": partial(_kill_in_a_save, head, s3),
        "Ray Train's controller killed": lambda scene: _kill_the_controller(head),
        "the driver killed": kill_the_driver,
        "the driver killed, and a supervisor goes on": partial(_leave_to_a_supervisor, command),
        "the driver told to end, by SIGTERM": partial(_signal_the_driver, signal.SIGTERM, TOLD_TO_END),
        "the head node killed": partial(_kill_the_head, head),
    }


def kill_a_worker(head: RayHead, chance: random.Random) -> Struck | None:
    worker = _a_worker(head, chance)
    return None if worker is None else _killed(worker)


def kill_the_driver(scene: Scene) -> Struck | None:
    return _signal_the_driver(signal.SIGKILL, KILLED, scene)


def _leave_to_a_supervisor(command: Command, scene: Scene) -> Struck | None:
    """It has struck when the supervisor went on; nothing else strikes until what it began has ended."""
    if not (list_runs(scene.store) or list_sweeps(scene.store)) or kill_the_driver(scene) is None:
        return None
    supervisor = command.start("supervise", "--store", scene.store.uri, "--json")

    def has_said(*texts: str) -> bool:
        return supervisor.process.poll() is not None or any(text in supervisor.said for text in texts)

    with suppress(TimeoutError):  # there was nothing to go on with: it came to its end before it was killed
        wait_until(lambda: has_said("goes on with it"), LOOKED_S)
        wait_until(lambda: has_said(": finished", "its command ended with code"), LONG_S)
    went_on = "goes on with it" in supervisor.said
    with suppress(ProcessLookupError):
        os.kill(supervisor.process.pid, signal.SIGTERM)
    supervisor.end()
    return lambda: int(went_on)


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
