"""A run whose workers are killed while a checkpoint is on its way, or are stopped: it ends as one that never was.

So does one whose driver is killed, whose S3 is gone for a while or refuses its key, or whose cluster is lost.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from raylora.store.blob import open_store
from raylora.store.checkpoint import TENSORS, load_latest
from raylora.store.manifest import MANIFEST
from raylora.store.runs import run_store
from raylora.store.s3_session import READ_TIMEOUT_S
from tests.cluster.command import LONG_S, Command, Ended, overrides, wait_until
from tests.cluster.conftest import RUN
from tests.cluster.undisturbed import assert_each_step_told_once, assert_trained_like
from tests.servers.fault_proxy import Fault, fault_proxy
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

GONE_S = 6.0
"""After it was missed, for which S3 stays away."""


def test_workers_killed_while_a_checkpoint_is_on_its_way(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server, whole_run: tuple[Command, Ended]
):
    """Either rank before its tensors are there, and either when only its manifest is missing."""
    ray_head.forget_workers()
    strikes = ((4, TENSORS, 0), (8, MANIFEST, 1), (12, TENSORS, 1), (16, MANIFEST, 0))
    store = s3_server.uri("killed-while-saving")
    settings = overrides("save_steps=4", f"distributed.max_failures={len(strikes)}", f"storage.uri={store}")
    with fault_proxy(s3_server.endpoint) as proxy:
        faults = [proxy.strike(Fault("hold", "PUT", f"step-{step:08d}/{name}")) for step, name, _ in strikes]
        env = {**on_head.env, **s3_server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        running = Command(on_head.folder, on_head.home, env).start("train", "run.yaml", "--json", *settings)
        for fault, (_, _, rank) in zip(faults, strikes, strict=True):
            assert fault.met.wait(LONG_S), running.said
            ray_head.worker(rank).kill()
        ended = running.end()
    assert_trained_like(ended, whole_run)
    assert ended.begun == [0, 0, 4, 8, 12], "what was not whole is not gone on from"
    assert "STEP 8 IS INCOMPLETE" in ended.err and "STEP 16 IS INCOMPLETE" in ended.err


def test_workers_that_are_stopped_are_missed_and_replaced(
    on_head: Command, ray_head: RayHead, whole_run: tuple[Command, Ended]
):
    """Either rank, one after the other."""
    ray_head.forget_workers()
    bounds = overrides("distributed.max_failures=2", "distributed.worker_timeout_s=10")
    running = on_head.start("train", "run.yaml", "--json", *bounds)
    stopped = []
    for step, rank in ((10, 1), (18, 0)):
        running.wait_for(f"step {step}/")
        stopped.append(ray_head.worker(rank))
        stopped[-1].suspend()
    ended = running.end()
    assert_trained_like(ended, whole_run)
    assert ended.begun == [0, 8, 16]
    assert not any(worker.is_running() for worker in stopped), "the stopped processes are gone"


def test_a_run_outlives_an_s3_that_is_killed_and_comes_back(
    on_head: Command, s3_server: S3Server, s3_env: S3Server, whole_run: tuple[Command, Ended]
):
    settings = overrides("save_steps=4", f"storage.uri={s3_server.uri('restarted-under-a-run')}")
    command = Command(on_head.folder, on_head.home, {**on_head.env, **s3_server.env})
    running = command.start("train", "run.yaml", "--json", *settings)
    running.wait_for("step 5/")
    s3_server.stop(signal.SIGKILL)
    try:
        running.wait_for("trying again in")
        time.sleep(GONE_S)
        assert running.process.poll() is None
    finally:
        s3_server.start()
    ended = running.end()
    assert_trained_like(ended, whole_run)
    assert ended.begun == [0], "nobody had to begin again"
    assert_each_step_told_once(on_head, ended)


def test_a_driver_killed_while_a_checkpoint_is_on_its_way(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server, whole_run: tuple[Command, Ended]
):
    """Two workers are at work, and of the newest checkpoint only the manifest is missing."""
    ray_head.forget_workers()
    store, env = s3_server.uri("driver-killed-while-saving"), {**on_head.env, **s3_server.env}
    with fault_proxy(s3_server.endpoint) as proxy:
        held = proxy.strike(Fault("hold", "PUT", f"step-00000016/{MANIFEST}"))
        command = Command(on_head.folder, on_head.home, {**env, "AWS_ENDPOINT_URL": proxy.endpoint})
        running = command.start("train", "run.yaml", "--json", *overrides(f"storage.uri={store}"))
        assert held.met.wait(LONG_S), running.said
        assert len(ray_head.workers()) == 2
        os.kill(running.process.pid, signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
        wait_until(lambda: not ray_head.workers(), 60)
    command = Command(on_head.folder, on_head.home, env)
    (run,) = command.run("runs", "--store", store, "--json").json["runs"]
    ended = command.run("resume", run["run_id"], "--store", store, "--json")
    assert "STEP 16 IS INCOMPLETE" in ended.err
    assert ended.begun == [8]
    assert_trained_like(ended, whole_run)
    assert_each_step_told_once(on_head, ended)


def test_a_run_whose_key_expires_goes_on_with_another(
    on_head: Command, s3_server: S3Server, s3_env: S3Server, whole_run: tuple[Command, Ended]
):
    """At the second checkpoint; the first outlived 503s, a reset and long silence, and is read in answers cut short."""
    store = s3_server.uri("expired")
    with fault_proxy(s3_server.endpoint) as proxy:
        first = "step-00000008/"
        passing = [
            *(Fault("busy", "PUT", f"{first}state.safetensors", times=2), Fault("reset", "PUT", f"{first}state.json")),
            Fault("stall", "PUT", f"{first}manifest.json", seconds=READ_TIMEOUT_S + 2),
        ]
        expired = Fault("expired", "PUT", "step-00000016/state.safetensors", times=99)
        for fault in (*passing, expired):
            proxy.strike(fault)
        env = {**on_head.env, **s3_server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        command = Command(on_head.folder, on_head.home, env)
        refused = command.run(
            "train", "run.yaml", "--json", *overrides(f"storage.uri={store}", "distributed.max_failures=2")
        )
        assert all(fault.struck for fault in (*passing, expired))
        assert refused.code == 1, refused.err
        assert "refuses the credentials (ExpiredToken)" in refused.error
        assert refused.err.count("steps to do") == 1, "a restart would only meet it again"
        expired.times = 0  # whoever asks has another key
        cut = proxy.strike(Fault("cut answer", "GET", first, times=4))
        (run,) = command.run("runs", "--store", store, "--json").json["runs"]
        ended = command.run("resume", run["run_id"], "--store", store, "--json")
    assert len(cut.struck) == 4
    assert_trained_like(ended, whole_run)
    assert ended.begun == [8]
    assert_each_step_told_once(on_head, ended)


def test_a_run_outlives_its_cluster(
    workplace: Path, on_head: Command, whole_run: tuple[Command, Ended], tmp_path: Path
):
    """The head node is killed, and with it every process of the run but its driver; another cluster goes on with it."""
    doomed = RayHead(tmp_path)
    doomed.start()
    try:
        running = Command(workplace, on_head.home, doomed.env).start("train", "run.yaml", "--json")
        running.wait_for("step 10/")
        doomed.stop(signal.SIGKILL)
        cut_off = running.end()
    finally:
        doomed.stop()
    assert cut_off.code not in (0, 2)
    (run,) = on_head.run("runs", "--json").json["runs"]
    assert run["status"] in ("failed", "lost")
    last = load_latest(run_store(open_store(str(on_head.home / "store")), run["run_id"]))
    assert last is not None
    ended = on_head.run("resume", run["run_id"], "--json")
    assert_trained_like(ended, whole_run)
    assert ended.begun == [last.step]
    assert 8 <= last.step < RUN["max_steps"], "the cluster ended in the midst of it"
    assert_each_step_told_once(on_head, ended)
