"""`raylora train` under ddp, on a real MLflow server that goes away: nothing stops, and no metric is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from raylora.spec.load import load_spec
from tests.cluster.alone import ended_as_alone
from tests.cluster.command import Command, overrides
from tests.cluster.made_sweeps import in_workplace
from tests.servers.mlflow import MlflowServer

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(600)]

NUM_STEPS = 60


def test_a_training_goes_on_without_its_server_and_loses_nothing(
    on_head: Command, in_workplace: Path, mlflow_server: MlflowServer, tmp_path: Path
):
    command = Command(in_workplace, on_head.home, on_head.env | {"MLFLOW_TRACKING_URI": mlflow_server.uri})
    words = ["distributed.strategy=ddp", "dtype=float32", f"max_steps={NUM_STEPS}"]
    running = command.start("train", "run.yaml", "--json", *overrides(*words))
    running.wait_for(f"step 2/{NUM_STEPS}")
    mlflow_server.stop()
    try:
        running.wait_for(f"step {NUM_STEPS - 10}/{NUM_STEPS}")
    finally:
        mlflow_server.start()
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
