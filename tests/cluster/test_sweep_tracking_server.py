"""The books of a sweep against a real MLflow server that goes away in the middle."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from raylora.store.blob import open_store
from raylora.tracking import outbox
from tests.servers.mlflow import MlflowServer
from tests.unit.sweep.planted_sweep import SLOTS, PlantedTrial, children, history, new_record, open_books, sweep_spec

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(240)]

NUM_TRIALS = 16


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raylora.tracking.start.PATIENCE_S", 0.5)
    monkeypatch.setattr("raylora.tracking.sweep_tracker.GATHER_S", 0.1)
    monkeypatch.setattr(outbox, "LONGEST_WAIT_S", 1.0)


def check_whole(client: MlflowClient, run: Run, trial: PlantedTrial) -> None:
    """Everything of a trial that went to its end is in its run, once."""
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in trial.config.items()}
    assert history(client, run, "train_loss") == [(step, trial.loss(step)) for step in range(1, 7)]
    assert history(client, run, "eval_loss") == [(step, trial.loss(step)) for step in (0, 2, 4, 6)]
    assert run.data.tags["raylora.run_id"] == trial.run_id
    assert [file.path for file in client.list_artifacts(run.info.run_id, "adapter")] == [
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
    ]


def test_a_server_that_goes_away_in_the_middle_has_every_trial_once(
    mlflow_server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    experiment = f"e-{uuid.uuid4().hex}"
    spec, store = sweep_spec(experiment, mlflow_server.uri), open_store(str(tmp_path / "store"))
    books, tracker = open_books(store, spec, new_record(spec), tmp_path / "spool")
    client = MlflowClient(mlflow_server.uri)
    trials = [PlantedTrial(books, spec, store, number) for number in range(NUM_TRIALS)]
    packs = [trials[start : start + SLOTS] for start in range(0, NUM_TRIALS, SLOTS)]

    for trial in packs[0]:
        trial.begin()
        trial.train(2)
    while len(tracker.trial_ids) < SLOTS:
        time.sleep(0.1)
    mlflow_server.stop()
    # A pack goes on, ends, and two more begin: nothing of it waits for MLflow.
    for trial in packs[0]:
        trial.train(4)
        trial.finish()
    for trial in packs[1] + packs[2]:
        trial.begin()
        trial.train(6)
    assert len(tracker.trial_ids) == SLOTS
    while "MLflow does not take metrics" not in caplog.text:
        time.sleep(0.1)
    mlflow_server.start()
    for trial in packs[1] + packs[2]:
        trial.finish()
    for trial in packs[3]:
        trial.begin()
        trial.train(6)
        trial.finish()
    record = books.close("finished")

    assert not (tmp_path / "spool").exists()
    parent = client.get_run(str(record.mlflow_run_id))
    runs = children(client, experiment, parent.info.run_id)
    assert sorted(runs) == [trial.trial_id for trial in record.trials]
    assert [runs[trial.trial_id].info.run_id for trial in record.trials] == [
        trial.mlflow_run_id for trial in record.trials
    ]
    for trial in trials:
        check_whole(client, runs[f"t{trial.number:03d}"], trial)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["raylora.best_trial"] == "t000"
    assert [name for name, run in runs.items() if "raylora.best" in run.data.tags] == ["t000"]
    assert "report/report.html" in {file.path for file in client.list_artifacts(parent.info.run_id, "report")}


def test_a_sweep_ends_without_mlflow_and_a_resume_sends_the_rest(
    mlflow_server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("raylora.tracking.tracker.FINISH_TIMEOUT_S", 2.0)
    experiment = f"e-{uuid.uuid4().hex}"
    spec, store = sweep_spec(experiment, mlflow_server.uri), open_store(str(tmp_path / "store"))
    books, _ = open_books(store, spec, new_record(spec), tmp_path / "spool")
    mlflow_server.stop()
    try:
        first = [PlantedTrial(books, spec, store, number) for number in range(2)]
        for trial in first:
            trial.begin()
            trial.train(6)
        first[0].finish()
        left = books.close("interrupted")
        assert [trial.mlflow_run_id for trial in left.trials] == [None, None]
        assert f"they are kept in {tmp_path / 'spool'}, and `raylora resume {left.sweep_id}` sends them" in caplog.text
        again, _ = open_books(store, spec, left, tmp_path / "spool")  # still down
    finally:
        mlflow_server.start()
    monkeypatch.setattr("raylora.tracking.tracker.FINISH_TIMEOUT_S", 60.0)
    going_on = PlantedTrial(again, spec, store, 1, step=6)
    going_on.begin()
    going_on.finish()
    record = again.close("finished")
    client = MlflowClient(mlflow_server.uri)
    runs = children(client, experiment, str(record.mlflow_run_id))
    assert {each.trial_id: each.mlflow_run_id for each in record.trials} == {
        name: run.info.run_id for name, run in runs.items()
    }
    for trial in (first[0], going_on):
        check_whole(client, runs[f"t{trial.number:03d}"], trial)
