"""A run and a sweep have one driver at a time: a second one is refused while the first lives, and goes on after it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raylora.spec.reading.load import load_spec
from raylora.store.blob import Store, open_store
from raylora.store.fence import key_of
from raylora.store.lease import Holder, is_deserted
from raylora.store.runs import list_runs, read_run, run_store
from raylora.store.sweeps import list_sweeps, read_sweep, sweep_store
from raylora.train.member import Member
from tests.cluster.alone import came_to, told_of, trained_alone
from tests.cluster.command import Command, overrides
from tests.cluster.made_sweeps import each_step_told_once, same_ends, undisturbed, whole
from tests.cluster.stopped import wait_for_saves
from tests.cluster.undisturbed import client
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

SETTINGS = ("max_steps=60", "save_steps=2", "eval_steps=60", "distributed.num_workers=1")


@pytest.fixture(scope="module")
def alone(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Member:
    """The run in one process, never disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        return trained_alone(load_spec(workplace / "run.yaml", SETTINGS).spec, tmp_path_factory.mktemp("alone"))


def test_a_run_is_resumed_once_its_driver_is_killed_and_not_before(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server, alone: Member
):
    ray_head.forget_workers()
    store = open_store(s3_server.uri("two-drivers"))
    command = Command(on_head.folder, on_head.home, {**on_head.env, **s3_server.env})
    words = overrides(f"storage.uri={store.uri}", *SETTINGS)
    first = command.start("train", "run.yaml", "--json", *words)
    first.wait_for("step 3/")
    workers = list(ray_head.seen_by_workers())
    try:
        send(signal.SIGSTOP, workers)  # while they are held, their driver is at work
        (record,) = list_runs(store)
        second = command.run("resume", record.run_id, "--store", store.uri, "--json")
        assert second.code == 2, second.err
        assert f"process {first.process.pid} on " in second.error
        assert record.status == "running"
        assert first.process.poll() is None
    finally:
        send(signal.SIGKILL, [first.process.pid])
        send(signal.SIGCONT, workers)
    third = command.run("resume", record.run_id, "--store", store.uri, "--json")
    assert first.end().code == -signal.SIGKILL
    assert third.code == 0, third.err
    assert "watching" not in third.err, "its process is known to be dead"
    assert "60 steps to do, 0 done" not in third.err
    came_to(alone, third.json)
    told_of(alone, client(on_head), third.json["mlflow_run_id"])
    assert [each.status for each in list_runs(store)] == ["finished"]
    assert is_deserted(run_store(store, record.run_id))


def test_workers_that_slept_while_another_driver_went_on_change_nothing(
    on_head: Command, ray_head: RayHead, new_home: Callable[[], Path], alone: Member
):
    """A machine falls asleep, driver and worker, for long enough; what it does when it wakes up is too late."""
    ray_head.forget_workers()
    store = open_store(str(on_head.home / "store"))
    words = overrides(*SETTINGS, "distributed.worker_timeout_s=900")
    asleep = on_head.start("train", "run.yaml", "--json", *words)
    asleep.wait_for("step 3/")
    processes = [asleep.process.pid, *ray_head.seen_by_workers()]
    try:
        send(signal.SIGSTOP, processes)
        (record,) = list_runs(store)
        own = run_store(store, record.run_id)
        far = Holder.model_validate_json(own.read(key_of(1)))
        far = far.model_copy(update={"process": far.process.model_copy(update={"machine": "far away"})})
        own.write(key_of(1), far.model_dump_json().encode())
        tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{on_head.home / 'mlflow.db'}"}
        other = Command(on_head.folder, new_home(), {**on_head.env, **tracking})
        ended = other.run("resume", record.run_id, "--store", store.uri, "--json")
        assert ended.code == 0, ended.err
        left = contents(own)
    finally:
        send(signal.SIGCONT, processes)
    awake = asleep.end()
    assert awake.code == 1
    assert "has taken it over" in awake.error
    assert contents(own) == left
    assert read_run(store, record.run_id).result == ended.json
    came_to(alone, ended.json)


def test_a_sweep_is_resumed_by_one_driver_once_its_own_is_killed_and_not_before(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server, undisturbed: dict[str, Any]
):
    """Of two that then begin at once, one goes on with it, to the bits of the sweep that was left alone."""
    ray_head.forget_workers()
    store = open_store(s3_server.uri("two-drivers-of-a-sweep"))
    command = Command(on_head.folder, on_head.home, {**on_head.env, **s3_server.env})
    first = command.start("sweep", "grid.yaml", "--json", *overrides(f"storage.uri={store.uri}"))
    wait_for_saves(first, store.uri)
    with ray_head.at_rest():  # while they are held, their driver is at work
        (record,) = list_sweeps(store)
        resume = ("resume", record.sweep_id, "--store", store.uri, "--json")
        second = command.run(*resume)
        assert second.code == 2, second.err
        assert f"process {first.process.pid} on " in second.error
        assert first.process.poll() is None
        send(signal.SIGKILL, [first.process.pid])
    both = [command.start(*resume) for _ in range(2)]
    pids = {running.process.pid for running in both}
    refused, ended = sorted((running.end() for running in both), key=lambda each: each.code == 0)
    assert first.end().code == -signal.SIGKILL
    assert refused.code == 2, refused.err
    assert any(f"process {pid} on " in refused.error for pid in pids)
    same_ends(whole(ended), undisturbed)
    each_step_told_once(on_head, whole(ended))
    assert read_sweep(store, record.sweep_id).status == "finished"
    assert is_deserted(sweep_store(store, record.sweep_id))


def contents(store: Store) -> dict[str, bytes]:
    keys = store.keys()
    return {key: store.read(key) for key in keys}


def send(word: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, word)
