"""A run has one driver at a time: a second one is refused while the first lives, and goes on as soon as it is dead."""

from __future__ import annotations

import os
import signal

import pytest

from raylora.store.blob import open_store
from raylora.store.lease import KEY
from raylora.store.runs import list_runs
from tests.cluster.command import Command
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


LONG = ("max_steps=300", "save_steps=10", "eval_steps=300")
"""Long enough for a second command to come along while the first is at work."""


def test_a_run_is_resumed_once_its_driver_is_killed_and_not_before(
    on_head: Command, s3_server: S3Server, s3_env: S3Server
):
    store = open_store(s3_server.uri("two-drivers"))
    command = Command(on_head.folder, on_head.home, {**on_head.env, **s3_server.env})
    settings = (f"storage.uri={store.uri}", *LONG)
    first = command.start("train", "run.yaml", "--json", *(word for each in settings for word in ("--set", each)))
    first.wait_for("step 11/")
    (record,) = list_runs(store)
    second = command.run("resume", record.run_id, "--store", store.uri, "--json")
    assert second.code == 2, second.err
    assert f"process {first.process.pid} on " in second.error
    assert record.status == "running"
    os.kill(first.process.pid, signal.SIGKILL)
    third = command.run("resume", record.run_id, "--store", store.uri, "--json")
    assert first.end().code == -signal.SIGKILL
    assert third.code == 0, third.err
    assert "watching" not in third.err, "its process is known to be dead"
    assert "300 steps to do, 0 done" not in third.err
    assert third.json["steps"] == 300
    keys = store.keys()
    assert [each.status for each in list_runs(store)] == ["finished"]
    assert [key for key in keys if key.endswith(KEY)] == []
