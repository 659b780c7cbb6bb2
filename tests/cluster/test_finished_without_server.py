"""What ended while MLflow was away: `raylora resume` sends what it did not take of a run or a sweep."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.home import spool_dir
from raylora.store.runs import new_run, write_run
from raylora.store.sweeps import read_sweep, write_sweep
from raylora.sweep.result import sweep_result
from raylora.tracking import outbox
from raylora.tracking.tracker import Tracker
from tests.cluster.command import Command
from tests.servers.mlflow import MlflowServer
from tests.unit.sweep.planted_sweep import PlantedTrial, children, history, new_record, open_books, sweep_spec

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(240)]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, with the home in which this process leaves what it did not send."""
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    return Command(tmp_path, tmp_path / "home")


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> str:
    """A new one, and little patience at the end of what is logged to it."""
    monkeypatch.setattr("raylora.tracking.tracker.FINISH_TIMEOUT_S", 1.0)
    monkeypatch.setattr(outbox, "LONGEST_WAIT_S", 1.0)
    return f"e-{uuid.uuid4().hex}"


def test_a_finished_run_sends_the_rest(mlflow_server: MlflowServer, command: Command, experiment: str, tmp_path: Path):
    tracking = {"uri": mlflow_server.uri, "experiment": experiment, "system_metrics": False}
    spec = RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}], tracking=tracking)
    record = new_run(spec)
    tracker = Tracker.start(spec, record.run_id, spool_dir(record.run_id))
    ended = {"status": "finished", "mlflow_run_id": tracker.mlflow_run_id, "result": {"run_id": record.run_id}}
    mlflow_server.stop()
    try:
        for step in range(1, 11):
            tracker.log_metrics(step, {"train_loss": 1 / step})
        (tmp_path / "loss.png").write_bytes(b"p")
        tracker.log_picture("loss.png", tmp_path / "loss.png")
        assert set(tracker.finish("finished")) == {"metrics", "artifacts"}
        write_run(open_store(str(command.home / "store")), record.model_copy(update=ended))
    finally:
        mlflow_server.start()
    again = command.run("resume", record.run_id, "--json")
    assert (again.code, again.json) == (0, ended["result"]), again.err
    client = MlflowClient(mlflow_server.uri)
    run = client.get_run(tracker.mlflow_run_id)
    assert history(client, run, "train_loss") == [(step, 1 / step) for step in range(1, 11)]
    assert run.info.status == "FINISHED"
    assert "loss.png" in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert not spool_dir(record.run_id).exists()


def test_a_finished_sweep_sends_the_rest(mlflow_server: MlflowServer, command: Command, experiment: str):
    spec, store = sweep_spec(experiment, mlflow_server.uri), open_store(str(command.home / "store"))
    record = new_record(spec)
    books, _ = open_books(store, spec, record, spool_dir(record.sweep_id))
    mlflow_server.stop()
    try:
        trials = [PlantedTrial(books, spec, store, number) for number in range(2)]
        for trial in trials:
            trial.begin()
            trial.train(6)
            trial.finish()
        left = books.close("finished")
        write_sweep(store, left.model_copy(update={"result": sweep_result(left)}))
    finally:
        mlflow_server.start()
    assert [trial.mlflow_run_id for trial in left.trials] == [None, None]
    again = command.run("resume", record.sweep_id, "--json")
    assert again.code == 0, again.err
    client = MlflowClient(mlflow_server.uri)
    parent = client.get_run(str(left.mlflow_run_id))
    runs = children(client, experiment, parent.info.run_id)
    for trial, run in zip(trials, (runs["t000"], runs["t001"]), strict=True):
        assert history(client, run, "train_loss") == [(step, trial.loss(step)) for step in range(1, 7)]
        assert "adapter" in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {parent.info.status, *(run.info.status for run in runs.values())} == {"FINISHED"}
    assert "report/report.html" in {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    assert not spool_dir(record.sweep_id).exists()
    ids = {name: run.info.run_id for name, run in runs.items()}
    assert {trial.trial_id: trial.mlflow_run_id for trial in read_sweep(store, record.sweep_id).trials} == ids
    assert {trial["trial_id"]: trial["mlflow_run_id"] for trial in again.json["trials"]} == ids
