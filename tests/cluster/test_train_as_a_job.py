"""The command as a job of Ray's own job server, which stops it: SIGTERM, and SIGKILL after a while."""

from __future__ import annotations

import json
import shlex
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.store.runs import list_runs, run_store
from tests.cluster.command import LONG_S, Command, Ended, wait_until
from tests.cluster.conftest import RUN
from tests.conftest import served
from tests.servers.ray import TOKEN, RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

JOB = "a-run"
GRACE_S = 30
"""As Kubernetes has it; Ray's own three seconds are not enough on a machine that is busy."""


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RayHead]:
    grace = {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S)}
    yield from served(RayHead(tmp_path, env=grace, takes_jobs=True))


def ask(url: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the job server, or tell it something."""
    words = {"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}", "Content-Type": "application/json"}
    data = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, words), timeout=60) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def test_a_stopped_job_leaves_a_checkpoint_of_its_last_step(
    head: RayHead, workplace: Path, new_home: Callable[[], Path], whole_run: tuple[Command, Ended]
):
    command = Command(workplace, new_home(), head.env)
    program = shlex.join([sys.executable, "-c", "from raylora.cli.app import main; main()"])
    words = f"cd {workplace} && RAYLORA_HOME={command.home} exec {program} train run.yaml --json --set save_steps=null"
    ask(head.jobs, {"entrypoint": words, "submission_id": JOB})
    log = head.session / "session_latest" / "logs" / f"job-driver-{JOB}.log"
    wait_until(lambda: log.exists() and "step 3/" in log.read_text(), LONG_S)
    assert ask(f"{head.jobs}{JOB}/stop", {})["stopped"]
    wait_until(lambda: ask(head.jobs + JOB)["status"] == "STOPPED", 60)
    (record,) = list_runs(open_store(str(command.home / "store")))
    last = load_latest(run_store(open_store(str(command.home / "store")), record.run_id))
    assert last is not None and 3 <= last.step < RUN["max_steps"], log.read_text()
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
