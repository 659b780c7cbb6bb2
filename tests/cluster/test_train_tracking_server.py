"""`raylora train` on a real MLflow server that goes away, or its database: nothing stops, and no metric is lost."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import ended_as_alone
from tests.cluster.command import Command, Ended, Running, overrides
from tests.cluster.conftest import RUN
from tests.cluster.made_sweeps import in_workplace
from tests.cluster.undisturbed import assert_trained_like
from tests.servers.mlflow import MlflowServer
from tests.servers.postgres import PASSWORD, PostgresServer
from tests.servers.ray import RayHead

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(600)]

NUM_STEPS = 80
DOWN_S = 60.0
REST_S = 8.0
"""The workers rest for so long after a step or a few: in a minute eight times.

Left to themselves they would take hundreds of steps meanwhile, and all would have to be trained once more, alone.
"""


def test_a_training_goes_on_without_its_server_for_a_minute_and_loses_nothing(
    on_head: Command, ray_head: RayHead, in_workplace: Path, mlflow_server: MlflowServer, tmp_path: Path
):
    ray_head.forget_workers()
    command = Command(in_workplace, on_head.home, on_head.env | {"MLFLOW_TRACKING_URI": mlflow_server.uri})
    words = ["distributed.strategy=ddp", f"max_steps={NUM_STEPS}"]
    running = command.start("train", "run.yaml", "--json", *overrides(*words))
    running.wait_for(f"step 2/{NUM_STEPS}")
    mlflow_server.stop()
    down_at = time.monotonic()
    try:
        while time.monotonic() - down_at < DOWN_S:
            running.wait_for(f"step {last_step(running) + 1}/{NUM_STEPS}")
            with ray_head.at_rest():
                time.sleep(REST_S)
        assert last_step(running) < NUM_STEPS, "the run was over before the minute was"
    finally:
        mlflow_server.start()
    assert "MLflow does not take metrics" in running.said
    ended = running.end()
    assert ended.code == 0, ended.err
    ended_as_alone(ended.json, load_spec(in_workplace / "run.yaml", words).spec, tmp_path)
    client, run_id = MlflowClient(mlflow_server.uri), ended.json["mlflow_run_id"]
    for name in ("train_loss", "grad_norm"):
        assert [point.step for point in client.get_metric_history(run_id, name)] == list(range(1, NUM_STEPS + 1))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval_loss"] == pytest.approx(ended.json["eval_loss"])
    assert {"adapter", "loss.png"} <= {file.path for file in client.list_artifacts(run_id)}


def test_a_training_goes_on_while_postgres_under_its_server_is_restarted(
    on_head: Command,
    ray_head: RayHead,
    workplace: Path,
    postgres_server: PostgresServer,
    mlflow_on_postgres: MlflowServer,
    whole_run: tuple[Command, Ended],
):
    ray_head.forget_workers()
    command = Command(workplace, on_head.home, on_head.env | {"MLFLOW_TRACKING_URI": mlflow_on_postgres.uri})
    running = command.start("train", "run.yaml", "--json")
    running.wait_for("step 2/")
    postgres_server.stop()
    try:
        running.wait_for("step 4/")
        with ray_head.at_rest():  # the steps that are left are for what follows
            running.wait_for("MLflow does not take metrics")
    finally:
        postgres_server.start()
    ended = running.end()
    assert_trained_like(ended, whole_run)
    client, run_id = MlflowClient(mlflow_on_postgres.uri), ended.json["mlflow_run_id"]
    for name in ("train_loss", "grad_norm"):
        assert [point.step for point in client.get_metric_history(run_id, name)] == list(range(1, RUN["max_steps"] + 1))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval_loss"] == pytest.approx(ended.json["eval_loss"])
    assert {"adapter", "loss.png"} <= {file.path for file in client.list_artifacts(run_id)}
    assert PASSWORD not in ended.out + ended.err


def last_step(running: Running) -> int:
    """The newest that was said."""
    return int(re.findall(rf"step (\d+)/{NUM_STEPS} loss", running.said)[-1])
