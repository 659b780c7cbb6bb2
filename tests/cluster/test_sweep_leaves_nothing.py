"""However sweeps and their trials end, a cluster is as it was before: by more than twenty ends, all of them real."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

from tests.cluster.command import Command, Running, wait_until
from tests.cluster.conftest import SWEPT
from tests.cluster.made_sweeps import the_record, whole, write
from tests.cluster.stopped import UNDER_WAY, check_as_before, kill_the_worker, next_workers
from tests.cluster.undisturbed import adapter_bits
from tests.servers.ray import RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

NUM_STOPS = 20
STOPPED = " stopped after step"
KEPT_BYTES = 50 * 10**6
"""Ray remembers drivers, actors and workers that are gone, some kilobytes each."""
SWEEP: dict[str, Any] = {
    "run": SWEPT | {"distributed": SWEPT["distributed"] | {"max_failures": 1}, "save_steps": 4},
    "num_trials": 40,
    "scheduler": "asha",
    "budget": {"steps": 16},
    "report_steps": 1,
    "grace_period": 1,
    "slots": 4,
    "space": {"learning_rate": {"loguniform": [1e-4, 3e-2]}},
}
"""Three of four trials are stopped at their first step; the others have many to go. Two workers share the base."""


def wait_for_stops(running: Running, number: int) -> None:
    """Until the scheduler has stopped so many trials since the command began."""
    wait_until(lambda: running.said.count(STOPPED) >= number, 240)


def adapters(result: dict[str, Any]) -> dict[float, bytes]:
    """The tensors of the trials that came to their end, by learning rate."""
    ended = [trial for trial in result["trials"] if trial["status"] == "succeeded"]
    return {trial["config"]["learning_rate"]: adapter_bits(trial) for trial in ended}


def test_nothing_is_left_of_stopped_trials_and_a_killed_worker(on_head: Command, ray_head: RayHead):
    """And those that were not stopped have the bits of a sweep that stops nobody and loses nobody."""
    ray_head.forget_workers()
    before = ray_head.in_use()
    running = on_head.start("sweep", write(on_head.folder, "stopped.yaml", SWEEP), "--json")
    wait_for_stops(running, NUM_STOPS)
    first = next_workers(ray_head, but=set())
    psutil.Process(first["1"]).kill()
    last = next_workers(ray_head, but=set(first.values()))
    ended = running.end()
    statuses = [trial["status"] for trial in whole(ended)["trials"]]
    assert set(statuses) == {"succeeded", "stopped"} and statuses.count("stopped") >= NUM_STOPS
    check_as_before(ray_head, before, ended)
    assert not any(map(psutil.pid_exists, (*first.values(), *last.values())))

    stayed = adapters(ended.json)
    calm = {**SWEEP, "searcher": "grid", "scheduler": "fifo", "space": {"learning_rate": {"choice": list(stayed)}}}
    del calm["num_trials"], calm["grace_period"]
    undisturbed = whole(on_head.run("sweep", write(on_head.folder, "calm.yaml", calm), "--json"))
    assert len(stayed) > 1 and adapters(undisturbed) == stayed


def test_nothing_is_left_of_sweeps_that_end_in_every_way(on_head: Command, ray_head: RayHead):
    """The driver is killed, Ctrl-C is pressed, a worker is killed and restarted, workers die for good; trials stop."""
    before = ray_head.in_use()
    running = on_head.start("sweep", write(on_head.folder, "ended.yaml", SWEEP), "--json")
    wait_for_stops(running, 4)
    os.kill(running.process.pid, signal.SIGKILL)
    ended = running.end()
    assert ended.code == -signal.SIGKILL
    check_as_before(ray_head, before, ended)
    held_bytes = ray_head.held_bytes()  # with what the first driver had the servers make for all

    resume = ("resume", the_record(on_head).sweep_id, "--json")
    running = on_head.start(*resume)
    wait_for_stops(running, 4)
    running.interrupt()
    ended = running.end()
    assert ended.code == 130, ended.err
    check_as_before(ray_head, before, ended)

    ray_head.forget_workers()
    running = on_head.start(*resume)
    wait_for_stops(running, 1)
    first = next_workers(ray_head, but=set())
    psutil.Process(first["1"]).kill()
    next_workers(ray_head, but=set(first.values()))
    ended = running.end()
    statuses = [trial["status"] for trial in whole(ended)["trials"]]
    assert set(statuses) == {"succeeded", "stopped"} and statuses.count("stopped") >= NUM_STOPS
    check_as_before(ray_head, before, ended)

    ray_head.forget_workers()
    running = on_head.start("sweep", "grid.yaml", "--json", "--set", "distributed.max_failures=0")
    running.wait_for(UNDER_WAY)
    kill_the_worker(ray_head)
    ended = running.end()
    assert ended.code == 1 and "its process died" in ended.error, ended.err
    check_as_before(ray_head, before, ended)
    assert ray_head.held_bytes() - held_bytes < KEPT_BYTES
