"""`raylora sweep` on a real MLflow server that goes away, or its database: nothing stops, and no metric is lost."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.cluster.command import Command, Ended, Running, overrides
from tests.cluster.made_sweeps import same_ends, told_once, undisturbed, whole
from tests.cluster.stopped import UNDER_WAY, check_as_before, workers
from tests.servers.mlflow import MlflowServer
from tests.servers.postgres import PASSWORD, PostgresServer
from tests.servers.process import Server
from tests.servers.ray import RayHead

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

DOWN_S = 60.0
REST_S = 8.0
"""The workers rest for so long after some steps each: left to themselves they would have ended meanwhile."""
WORK_S = 0.2


def start(command: Command, server: MlflowServer, experiment: str) -> Running:
    env = command.env | {"MLFLOW_TRACKING_URI": server.uri}
    words = overrides(f"tracking.experiment={experiment}")
    return Command(command.folder, command.home, env).start("sweep", "grid.yaml", "--json", *words)


def be_without(server: Server, running: Running, ray_head: RayHead, for_s: float) -> None:
    """Stop a server while trials train, and start it again."""
    running.wait_for(UNDER_WAY)
    server.stop()
    down_at = time.monotonic()
    try:
        while time.monotonic() - down_at < for_s or "MLflow does not take" not in running.said:
            with ray_head.at_rest():
                time.sleep(REST_S)
            time.sleep(WORK_S)
            assert "succeeded after" not in running.said, "a trial came to its end before"
    finally:
        server.start()


def check_whole(server: MlflowServer, experiment: str, ended: Ended, undisturbed: dict[str, Any]) -> None:
    """Assert that the sweep came to the end of the one left alone, and that MLflow has all of it, once."""
    result, mlflow = whole(ended), MlflowClient(server.uri)
    same_ends(result, undisturbed)
    told_once(mlflow, experiment, result)
    for trial in result["trials"]:
        run = mlflow.get_run(trial["mlflow_run_id"])
        is_whole = trial["status"] == "succeeded"
        assert run.info.status == ("FINISHED" if is_whole else "FAILED")
        assert ("adapter" in {file.path for file in mlflow.list_artifacts(run.info.run_id)}) == is_whole
        if is_whole:
            assert run.data.metrics["eval_loss"] == pytest.approx(trial["metric"])
    parent = mlflow.get_run(result["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["raylora.best_trial"] == result["best_trial"]


def test_a_sweep_goes_on_without_its_server_for_a_minute_and_loses_nothing(
    on_head: Command, ray_head: RayHead, mlflow_server: MlflowServer, undisturbed: dict[str, Any]
):
    ray_head.forget_workers()
    before, experiment = ray_head.in_use(), f"e-{uuid.uuid4().hex}"
    running = start(on_head, mlflow_server, experiment)
    be_without(mlflow_server, running, ray_head, DOWN_S)
    ended = running.end()
    check_whole(mlflow_server, experiment, ended, undisturbed)
    assert len(workers(ray_head)) == 1, "nobody had to begin again"
    check_as_before(ray_head, before, ended)


def test_a_sweep_goes_on_while_postgres_under_its_server_is_restarted(
    on_head: Command,
    ray_head: RayHead,
    postgres_server: PostgresServer,
    mlflow_on_postgres: MlflowServer,
    undisturbed: dict[str, Any],
):
    ray_head.forget_workers()
    experiment = f"e-{uuid.uuid4().hex}"
    running = start(on_head, mlflow_on_postgres, experiment)
    be_without(postgres_server, running, ray_head, 0.0)
    ended = running.end()
    check_whole(mlflow_on_postgres, experiment, ended, undisturbed)
    assert PASSWORD not in ended.out + ended.err
