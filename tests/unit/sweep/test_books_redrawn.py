"""The books of a sweep whose driver was killed and whose searcher draws numbers again, on MLflow's SQLite store."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from raylora.store.contract import Store
from raylora.store.sweeps import SweepRecord
from raylora.tracking.children import Children
from tests.unit.sweep.planted_sweep import PlantedTrial, Sweep, children, history, sweep_spec

pytestmark = pytest.mark.slow

NUM_TOLD = 3
QUESTIONS = ("search_runs", "get_run", "get_metric_history")


@dataclass
class OtherTrial(PlantedTrial):
    """Another configuration for the same number, which learns otherwise."""

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"learning_rate": 9e-3}

    def loss(self, step: int) -> float:
        return super().loss(step) + 1


def killed(
    store: Store, spool: Path, experiment: str, is_sent: bool, is_recorded: bool = False
) -> tuple[Sweep, SweepRecord]:
    """A sweep whose driver was killed when it had told of three steps of its only trial, and the record it left."""
    sweep = Sweep(store, spool, sweep_spec(experiment))
    left = sweep.read()
    sweep.begun(0, NUM_TOLD)
    if is_recorded:
        sweep.books.write()
        left = sweep.read()
    assert len(left.trials) == is_recorded
    sweep.tracker._lanes.close(60 if is_sent else 0)
    assert spool.exists() != is_sent
    return sweep, left


def by_rate(client: MlflowClient, experiment: str, record: SweepRecord) -> dict[str, Run]:
    """The MLflow runs of a sweep's trials by learning rate: two are of one number, and so of one name."""
    where = [client.get_experiment_by_name(experiment).experiment_id]
    found = client.search_runs(where, f"tags.`mlflow.parentRunId` = '{record.mlflow_run_id}'")
    assert len({run.data.params["learning_rate"] for run in found}) == len(found)
    return {run.data.params["learning_rate"]: run for run in found}


def count_questions(monkeypatch: pytest.MonkeyPatch, is_silent: bool) -> list[str]:
    """Note what the driver's thread asks MLflow from now on; where that is silent, searches fail."""
    asked: list[str] = []

    def noting(name: str) -> None:
        ask = getattr(MlflowClient, name)

        def noted(client: MlflowClient, *args: Any, **named: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                asked.append(name)
                if is_silent and name == "search_runs":
                    raise ConnectionError("nothing came in 30 s")
            return ask(client, *args, **named)

        monkeypatch.setattr(MlflowClient, name, noted)

    for name in QUESTIONS:
        noting(name)
    return asked


@pytest.mark.parametrize("is_sent", [True, False], ids=["sent", "in the spool"])
@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "unrecorded"])
def test_another_draw_of_a_number_has_a_run_of_its_own(
    client: MlflowClient,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_sent: bool,
    is_recorded: bool,
):
    monkeypatch.setattr("raylora.tracking.sweep_tracker.GATHER_S", 60.0)  # nothing is sent before the lanes close
    experiment = f"other-{is_sent}-{is_recorded}"
    first, left = killed(store, tmp_path / "spool", experiment, is_sent, is_recorded)
    second = Sweep(store, tmp_path / "spool", first.spec, left)
    trial = OtherTrial(second.books, first.spec, store, 0)
    with caplog.at_level(logging.INFO):
        trial.begin()
    trial.train(6)
    trial.finish()
    record = second.books.close("finished")

    assert caplog.text.count("t000 was drawn anew with another configuration") == 1
    runs = by_rate(client, experiment, record)
    assert set(runs) == {"0.001", "0.009"}
    old, new = runs["0.001"], runs["0.009"]
    assert (old.info.status, old.data.tags["raylora.drawn_anew"]) == ("KILLED", "true")
    earlier = first.trial(0)
    assert history(client, old, "train_loss") == [(step, earlier.loss(step)) for step in range(1, NUM_TOLD + 1)]
    assert new.info.status == "FINISHED"
    assert "raylora.drawn_anew" not in new.data.tags
    assert history(client, new, "train_loss") == [(step, trial.loss(step)) for step in range(1, 7)]
    assert history(client, new, "eval_loss") == [(step, trial.loss(step)) for step in (0, 2, 4, 6)]
    assert [run.data.tags["raylora.run_id"] for run in (old, new)] == [trial.run_id] * 2
    for run, rate in ((old, 1e-3), (new, 9e-3)):
        text = Path(client.download_artifacts(run.info.run_id, "spec.yaml", str(tmp_path))).read_text()
        assert yaml.safe_load(text)["learning_rate"] == rate
    (known,) = record.trials
    assert (known.mlflow_run_id, known.config) == (new.info.run_id, trial.config)
    assert [point.train_loss for point in known.curve] == [None, *(trial.loss(step) for step in range(1, 7))]


def test_a_third_driver_goes_on_with_the_newest_draw(client: MlflowClient, store: Store, tmp_path: Path):
    first, left = killed(store, tmp_path / "spool", "third", is_sent=True)
    second = Sweep(store, tmp_path / "spool", first.spec, left)
    drawn = OtherTrial(second.books, first.spec, store, 0)
    drawn.begin()
    drawn.train(2)
    second.books.write()
    second.tracker._lanes.close(60)
    left = second.read()
    assert [trial.mlflow_run_id for trial in left.trials] == [None]

    third = Sweep(store, tmp_path / "spool", first.spec, left)
    trial = OtherTrial(third.books, first.spec, store, 0)
    trial.begin()
    trial.train(6)
    trial.finish()
    runs = by_rate(client, "third", third.books.close("finished"))
    assert {rate: run.info.status for rate, run in runs.items()} == {"0.001": "KILLED", "0.009": "FINISHED"}
    assert history(client, runs["0.009"], "train_loss") == [(step, trial.loss(step)) for step in range(1, 7)]


def test_only_trials_that_mlflow_was_told_of_are_asked_for(
    client: MlflowClient, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, left = killed(store, tmp_path / "spool", "asked", is_sent=True)
    with monkeypatch.context() as patch:
        asked = count_questions(patch, is_silent=False)
        second = Sweep(store, tmp_path / "spool", first.spec, left)
        assert asked.count("search_runs") == 1
        asked.clear()
        for number in range(1, 8):
            second.begun(number, 1)
        assert asked == []
        second.begun(0, 6)
        assert asked == ["get_metric_history"] * 2  # of both losses
    second.books.close("interrupted")


def test_an_mlflow_that_is_silent_is_asked_once_and_told_again(
    client: MlflowClient,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    first, left = killed(store, tmp_path / "spool", "silent", is_sent=True)
    with monkeypatch.context() as patch:
        asked = count_questions(patch, is_silent=True)
        second = Sweep(store, tmp_path / "spool", first.spec, left)
        assert asked.count("search_runs") == 1
        assert caplog.text.count("what MLflow has of trials without a record is not at hand") == 1
        asked.clear()
        second.tracker._lanes._silent_until = 0.0  # as a minute later
        for number in range(4):
            second.begun(number, 6)
        assert asked == []
    record = second.books.close("interrupted")
    runs = children(client, "silent", str(record.mlflow_run_id))
    assert set(runs) == {"t000", "t001", "t002", "t003"}
    for run in runs.values():
        assert {step for step, _ in history(client, run, "train_loss")} == set(range(1, 7))


def test_all_runs_of_a_sweep_are_found_however_many_come_at_once(
    client: MlflowClient, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("raylora.tracking.children.RUNS_PER_REQUEST", 2)
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("pages"))
    for number in range(5):
        sweep.begun(number)
    record = sweep.books.close("interrupted")
    found = Children(str(record.mlflow_run_id), {})
    found.look(client)
    assert found.ids == record.mlflow_ids
    assert len(found.ids) == 5
