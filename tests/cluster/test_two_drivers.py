"""A run has one driver at a time: a second one is refused while the first lives, and goes on as soon as it is dead."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

import pytest
from mlflow import MlflowClient

from raylora.store.blob import open_store
from raylora.store.lease import is_deserted
from raylora.store.runs import list_runs, run_store
from tests.cluster.command import Command, overrides
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SETTINGS = ("max_steps=60", "save_steps=2", "eval_steps=60", "distributed.num_workers=1")


def test_a_run_is_resumed_once_its_driver_is_killed_and_not_before(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server
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
    assert third.json["steps"] == 60
    client = MlflowClient(tracking_uri=f"sqlite:///{on_head.home / 'mlflow.db'}")
    points = client.get_metric_history(third.json["mlflow_run_id"], "train_loss")
    assert [point.step for point in points] == list(range(1, 61)), "each once"
    assert [each.status for each in list_runs(store)] == ["finished"]
    assert is_deserted(run_store(store, record.run_id))


def send(word: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, word)
