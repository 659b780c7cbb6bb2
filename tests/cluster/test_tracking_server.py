"""The tracker against real MLflow servers: outages, PostgreSQL, artifacts in a bucket, wrong passwords."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact import s3_artifact_repo

from raylora.errors import TrackingError
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.tracking import outbox
from raylora.tracking.tracker import Tracker
from tests.servers.mlflow import MlflowServer
from tests.servers.postgres import PASSWORD, PostgresServer
from tests.servers.process import free_ports
from tests.servers.s3 import SECRET, S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def fresh_credentials(monkeypatch: pytest.MonkeyPatch):
    """Forget what an earlier test's client knew: a training's process meets one set of credentials only."""
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing reaches standard output: it belongs to results."""
    yield
    assert capfd.readouterr().out == ""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter, as far as tracking cares."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    return tmp_path / "adapter"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raylora.tracking.start.PATIENCE_S", 0.5)
    monkeypatch.setattr(outbox, "LONGEST_WAIT_S", 1.0)


def spec(uri: str | None, **tracking: object) -> RunSpec:
    where = {"uri": uri, "experiment": f"e-{uuid.uuid4().hex}", "system_metrics": False} | tracking
    return RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}], tracking=where)


def losses(uri: str, run_id: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in MlflowClient(uri).get_metric_history(run_id, "loss")]


def log_steps(tracker: Tracker, steps: range) -> list[tuple[int, float]]:
    for step in steps:
        tracker.log_metrics(step, {"loss": step / 3})
    return [(step, step / 3) for step in steps]


@pytest.mark.usefixtures("hasty")
def test_a_server_that_is_killed_and_comes_back_has_every_metric_once(
    mlflow_server: MlflowServer, spool: Path, folder: Path, caplog: pytest.LogCaptureFixture
):
    tracker = Tracker.start(spec(mlflow_server.uri), "r1", spool)
    expected = log_steps(tracker, range(100))
    while not losses(mlflow_server.uri, tracker.mlflow_run_id):
        time.sleep(0.1)
    expected += log_steps(tracker, range(100, 1000))
    mlflow_server.stop()
    expected += log_steps(tracker, range(1000, 2500))
    tracker.log_folder(folder, "adapter")
    while "MLflow does not take metrics" not in caplog.text:
        time.sleep(0.1)
    mlflow_server.start()
    expected += log_steps(tracker, range(2500, 2600))
    assert tracker.finish("finished") == {}
    assert losses(mlflow_server.uri, tracker.mlflow_run_id) == expected
    client = MlflowClient(mlflow_server.uri)
    assert client.get_run(tracker.mlflow_run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(tracker.mlflow_run_id, "adapter")] == [
        "adapter/adapter_config.json"
    ]
    assert tracker.how_to_open.startswith(f"{mlflow_server.uri}/#/experiments/")


@pytest.mark.usefixtures("hasty")
def test_a_training_ends_without_mlflow_and_a_resume_sends_the_rest(
    mlflow_server: MlflowServer, spool: Path, caplog: pytest.LogCaptureFixture
):
    asked = spec(mlflow_server.uri)
    tracker = Tracker.start(asked, "r1", spool)
    mlflow_server.stop()
    try:
        expected = log_steps(tracker, range(10))
        left = tracker.finish("failed", timeout_s=2)
        assert left["metrics"] >= 10
        assert f"they are kept in {spool}, and `raylora resume r1` sends them" in caplog.text
        again = Tracker.start(asked, "r1", spool, mlflow_run_id=tracker.mlflow_run_id)  # still down
        expected += log_steps(again, range(10, 20))
    finally:
        mlflow_server.start()
    assert again.finish("finished") == {}
    assert losses(mlflow_server.uri, tracker.mlflow_run_id) == expected
    assert MlflowClient(mlflow_server.uri).get_run(tracker.mlflow_run_id).info.status == "FINISHED"


@pytest.mark.usefixtures("hasty")
def test_a_server_that_is_not_there_is_said_before_training(spool: Path):
    uri = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(TrackingError, match=rf"MLflow at {uri} does not answer .*tracking\.uri or MLFLOW_TRACKING_URI"):
        Tracker.start(spec(uri), "r1", spool)
    assert not spool.exists()


def test_postgres_behind_a_server_that_keeps_artifacts_in_the_bucket(
    mlflow_on_postgres: MlflowServer, s3_env: S3Server, spool: Path, folder: Path
):
    uri = mlflow_on_postgres.uri
    tracker = Tracker.start(spec(uri), "r1", spool)
    expected = log_steps(tracker, range(1500))
    tracker.log_folder(folder, "adapter")
    assert tracker.finish("finished") == {}
    assert losses(uri, tracker.mlflow_run_id) == expected
    kept = open_store(s3_env.uri("mlflow-artifacts")).keys()
    names = {key.split("/artifacts/")[1] for key in kept if f"/{tracker.mlflow_run_id}/" in key}
    assert names == {"spec.yaml", "adapter/adapter_config.json"}


@pytest.mark.usefixtures("hasty")
def test_postgres_without_a_server_counts_a_metric_that_is_sent_twice_once(
    postgres_server: PostgresServer,
    mlflow_on_postgres: MlflowServer,  # it has made the tables
    spool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres_server.uri)
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    asked = spec(None)
    tracker = Tracker.start(asked, "r1", spool)
    expected = log_steps(tracker, range(500))
    while len(losses(postgres_server.uri, tracker.mlflow_run_id)) < 500:
        time.sleep(0.1)
    postgres_server.stop()
    expected += log_steps(tracker, range(500, 600))
    while "MLflow does not take metrics" not in caplog.text:
        time.sleep(0.1)
    (spool / "values" / "acknowledged").unlink()
    again = Tracker.start(asked, "r1", spool, mlflow_run_id=tracker.mlflow_run_id)
    postgres_server.start()
    assert again.finish("finished") == {}
    assert losses(postgres_server.uri, tracker.mlflow_run_id) == expected
    assert PASSWORD not in caplog.text
    assert PASSWORD not in tracker.how_to_open
    run = MlflowClient(postgres_server.uri).get_run(tracker.mlflow_run_id)
    assert PASSWORD not in str(run.to_dictionary())
    tracker.finish("finished")


@pytest.mark.usefixtures("hasty")
def test_a_password_that_is_wrong_is_said_and_not_shown(
    postgres_server: PostgresServer, spool: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # else MLflow itself asks for 100 seconds
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres_server.uri.replace(PASSWORD, "a-wrong-pw"))
    with pytest.raises(
        TrackingError, match=r"MLflow at postgresql://127\.0\.0\.1:\d+/postgres does not answer"
    ) as caught:
        Tracker.start(spec(None), "r1", spool)
    assert "a-wrong-pw" not in str(caught.value)


def test_a_client_puts_artifacts_into_the_bucket_itself(
    mlflow_server: MlflowServer, s3_env: S3Server, spool: Path, folder: Path
):
    place = s3_env.uri(f"direct/{uuid.uuid4().hex}")
    tracker = Tracker.start(spec(mlflow_server.uri, artifact_uri=place), "r1", spool)
    tracker.log_folder(folder, "adapter")
    tracker.log_picture("loss.png", folder / "adapter_config.json")
    assert tracker.finish("finished") == {}
    kept = open_store(place).keys()
    names = {key.split("/artifacts/")[1] for key in kept}
    assert names == {"spec.yaml", "adapter/adapter_config.json", "loss.png"}


def test_a_wrong_key_of_the_artifact_bucket_is_said_before_training(
    mlflow_server: MlflowServer, s3_env: S3Server, spool: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(
        TrackingError, match=r"artifacts cannot be written to s3://raylora/wrong-key.*its credentials"
    ) as caught:
        Tracker.start(spec(mlflow_server.uri, artifact_uri=s3_env.uri("wrong-key")), "r1", spool)
    assert "wrong-secret" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("hasty")
def test_a_bucket_that_is_down_holds_up_artifacts_and_no_metric(
    mlflow_server: MlflowServer, s3_env: S3Server, spool: Path, folder: Path
):
    place = s3_env.uri(f"down/{uuid.uuid4().hex}")
    tracker = Tracker.start(spec(mlflow_server.uri, artifact_uri=place), "r1", spool)
    s3_env.stop()
    try:
        tracker.log_folder(folder, "adapter")
        expected = log_steps(tracker, range(50))
        while losses(mlflow_server.uri, tracker.mlflow_run_id) != expected:
            time.sleep(0.1)
    finally:
        s3_env.start()
    assert tracker.finish("finished") == {}
    kept = open_store(place).keys()
    assert any(key.endswith("/adapter/adapter_config.json") for key in kept)
