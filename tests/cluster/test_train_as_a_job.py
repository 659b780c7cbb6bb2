"""A run as a job of Ray's own job server, which stops it, and what that knows of it: no secret of the nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.store.runs import list_runs, run_store
from tests.cluster.command import LONG_S, Command, Ended, wait_until
from tests.cluster.conftest import RUN
from tests.cluster.ray_jobs import OF_NODES, Job, ask, job_head
from tests.cluster.secrets_found import files_with, holds
from tests.servers.ray import RayHead

__all__ = ["job_head"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]


def test_a_stopped_job_leaves_a_checkpoint_of_its_last_step(
    job_head: RayHead, workplace: Path, new_home: Callable[[], Path], whole_run: tuple[Command, Ended]
):
    command = Command(workplace, new_home(), job_head.env)
    job = Job(job_head, command, "a-run", "train", "run.yaml", "--json", "--set", "save_steps=null")
    wait_until(lambda: "step 3/" in job.said, LONG_S)
    job.stop()
    (record,) = list_runs(open_store(str(command.home / "store")))
    last = load_latest(run_store(open_store(str(command.home / "store")), record.run_id))
    assert last is not None and 3 <= last.step < RUN["max_steps"], job.said
    check_no_secret(job_head, command, job)
    ended = command.run("resume", record.run_id, "--json")
    assert ended.code == 0, ended.err
    assert f"{RUN['max_steps']} steps to do, {last.step} done" in ended.err
    name = "adapter_model.safetensors"
    whole = whole_run[1].json["adapter_uri"]
    assert (Path(ended.json["adapter_uri"]) / name).read_bytes() == (Path(whole) / name).read_bytes()
    client = MlflowClient(tracking_uri=f"sqlite:///{command.home / 'mlflow.db'}")
    (tracked,) = client.search_runs([client.get_experiment_by_name("raylora").experiment_id])
    steps = [point.step for point in client.get_metric_history(tracked.info.run_id, "train_loss")]
    assert steps == list(range(1, RUN["max_steps"] + 1)), "each step once"


def check_no_secret(head: RayHead, command: Command, job: Job) -> None:
    """In the job's records and log, in Ray's session and tables, or in the home; the job had all of them."""
    seen = head.seen_by_workers().values()
    assert seen and all(env.items() >= OF_NODES.items() for env in seen)
    records = json.dumps(ask(head.jobs)).encode()
    for kept in (records, head.tables()):
        assert b"a-run" in kept and b"raylora.cli.app" in kept, "what is searched is of this job"
        assert [name for name, secret in OF_NODES.items() if holds(kept, secret)] == []
    for name, secret in OF_NODES.items():
        assert not holds(job.said.encode(), secret), name
        assert files_with(secret, command.home) == files_with(secret, head.session) == [], name
