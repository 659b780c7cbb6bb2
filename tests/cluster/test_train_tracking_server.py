"""`raylora train` on a real MLflow server that goes away while it trains: nothing stops, and no metric is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.cluster.command import Command
from tests.servers.mlflow import MlflowServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NUM_STEPS = 60


def test_a_training_goes_on_without_its_server_and_loses_nothing(
    workplace: Path, mlflow_server: MlflowServer, tmp_path: Path
):
    command = Command(workplace, tmp_path / "home", {"MLFLOW_TRACKING_URI": mlflow_server.uri})
    running = command.start("train", "run.yaml", "--json", "--set", f"max_steps={NUM_STEPS}")
    running.wait_for(f"step 2/{NUM_STEPS}")
    mlflow_server.stop()
    try:
        running.wait_for(f"step {NUM_STEPS - 10}/{NUM_STEPS}")
    finally:
        mlflow_server.start()
    ended = running.end()
    assert ended.code == 0, ended.err
    client, run_id = MlflowClient(mlflow_server.uri), ended.json["mlflow_run_id"]
    for name in ("train_loss", "grad_norm"):
        assert [point.step for point in client.get_metric_history(run_id, name)] == list(range(1, NUM_STEPS + 1))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval_loss"] == pytest.approx(ended.json["eval_loss"])
    assert {"adapter", "loss.png"} <= {file.path for file in client.list_artifacts(run_id)}
