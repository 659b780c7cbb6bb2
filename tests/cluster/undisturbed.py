"""What a run left behind, held against the same run that was never disturbed: bits, samples, MLflow's steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient

from raylora.store.blob import open_store
from tests.cluster.command import Command, Ended
from tests.cluster.conftest import RUN

ADAPTER = "adapter_model.safetensors"


def adapter_bits(result: Mapping[str, Any]) -> bytes:
    """The tensors that a run or a trial published, whatever store they are in."""
    return open_store(result["adapter_uri"]).read(ADAPTER)


def assert_trained_like(ended: Ended, whole_run: tuple[Command, Ended]) -> None:
    """The adapter has the bits of the run that was never disturbed, and no sample was left out or seen twice."""
    assert ended.code == 0, ended.err
    result, whole = ended.json, whole_run[1].json
    assert adapter_bits(result) == adapter_bits(whole)
    assert (result["tokens"], result["eval_loss"]) == (whole["tokens"], whole["eval_loss"])


def assert_each_step_told_once(command: Command, ended: Ended) -> None:
    """In the one MLflow run that there is."""
    mlflow = client(command)
    (tracked,) = mlflow.search_runs([mlflow.get_experiment_by_name("raylora").experiment_id])
    assert tracked.info.run_id == ended.json["mlflow_run_id"]
    steps = [point.step for point in mlflow.get_metric_history(tracked.info.run_id, "train_loss")]
    assert steps == list(range(1, RUN["max_steps"] + 1))


def client(command: Command) -> MlflowClient:
    """MLflow in the command's home."""
    return MlflowClient(tracking_uri=f"sqlite:///{command.home / 'mlflow.db'}")
