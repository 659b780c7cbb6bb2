"""The books of a sweep with planted events, on MLflow's SQLite store without a server."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec
from raylora.store.blob import open_store
from raylora.store.contract import Store
from raylora.store.sweeps import read_sweep
from raylora.sweep.books import Books
from raylora.sweep.result import sweep_result
from raylora.tracking.sweep_tracker import SweepTracker
from raylora.train.events import Event
from tests.unit.sweep.planted_sweep import (
    SLOTS,
    TOKENS,
    PlantedTrial,
    Sweep,
    children,
    history,
    new_record,
    sweep_spec,
)

pytestmark = pytest.mark.slow


def test_every_trial_is_a_child_with_its_knobs_numbers_inputs_and_adapter(
    client: MlflowClient, store: Store, tmp_path: Path
):
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("whole"))
    trials = [sweep.begun(number, 2) for number in range(6)]
    for trial in trials[:2]:
        trial.train(4)
        trial.finish()
    sweep.books.end_trial("run-002", "stopped")
    sweep.books.end_trial("run-003", "failed", "loss is NaN")
    sweep.books.pause_trial("run-004")
    record = sweep.books.close("finished")

    assert record == read_sweep(store, sweep.sweep_id)
    assert [trial.status for trial in record.trials] == [
        *("succeeded", "succeeded", "stopped", "failed", "cancelled", "cancelled")
    ]
    assert not (tmp_path / "spool").exists()
    parent = client.get_run(str(record.mlflow_run_id))
    runs = children(client, "whole", parent.info.run_id)
    assert {name: run.info.status for name, run in runs.items()} == {
        **{"t000": "FINISHED", "t001": "FINISHED", "t002": "KILLED", "t003": "FAILED"},
        **{"t004": "KILLED", "t005": "KILLED"},
    }
    assert {trial.trial_id: trial.mlflow_run_id for trial in record.trials} == {
        name: run.info.run_id for name, run in runs.items()
    }

    best = runs["t000"]
    assert best.data.params == {"lora_r": "4", "learning_rate": "0.001"}
    assert history(client, best, "train_loss") == [(step, trials[0].loss(step)) for step in range(1, 7)]
    assert history(client, best, "eval_loss") == [(step, trials[0].loss(step)) for step in (0, 2, 4, 6)]
    assert best.data.tags["raylora.base_digest"] == "b" * 64
    assert best.data.tags["raylora.eval_loss"] == str(trials[0].loss(6))
    assert [used.dataset.name for used in best.inputs.dataset_inputs] == ["d.jsonl"]
    assert [name for name, run in runs.items() if run.data.tags.get("raylora.best") == "true"] == ["t000"]
    assert runs["t003"].data.tags["raylora.error"] == "loss is NaN"
    folder = Path(client.download_artifacts(best.info.run_id, "", str(tmp_path)))
    assert yaml.safe_load((folder / "spec.yaml").read_text()) == trial_spec(sweep.spec, trials[0].config).model_dump(
        mode="json"
    )
    assert {file.name for file in (folder / "adapter").iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors")
    }

    assert (parent.info.status, parent.data.tags["raylora.best_trial"]) == ("FINISHED", "t000")
    assert parent.data.tags["raylora.sweep_id"] == sweep.sweep_id
    assert parent.data.tags["raylora.spec_digest"] == sweep.spec.digest
    assert (parent.data.params["run.base_model"], parent.data.params["space.lora_r.choice"]) == ("m", "[4, 8]")
    asked = Path(client.download_artifacts(parent.info.run_id, "spec.yaml", str(tmp_path))).read_text()
    assert SweepSpec.model_validate(yaml.safe_load(asked)) == sweep.spec
    report = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    assert report >= {"report/report.html", "report/curves.png", "report/winner.yaml"}


def test_ranks_that_a_trial_has_left_are_told_and_drawn_in_its_run(client: MlflowClient, store: Store, tmp_path: Path):
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("ranks"))
    left = {"model.layers.0.q_proj": 3, "model.layers.1.q_proj": 0}
    for number, ranks in enumerate((left, None)):
        sweep.begun(number, 2).finish(ranks)
    record = sweep.books.close("finished")
    runs = children(client, "ranks", str(record.mlflow_run_id))
    artifacts = {name: {file.path for file in client.list_artifacts(run.info.run_id)} for name, run in runs.items()}
    assert artifacts["t000"] >= {"ranks.json", "ranks.png"}
    assert artifacts["t001"].isdisjoint({"ranks.json", "ranks.png"})
    told = Path(client.download_artifacts(runs["t000"].info.run_id, "ranks.json", str(tmp_path)))
    assert json.loads(told.read_text()) == left


def test_the_record_has_the_curves_and_the_result_follows_from_it(client: MlflowClient, store: Store, tmp_path: Path):
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("result"))
    for number in range(6):
        sweep.begun(number, 6).finish()
    live = sweep.books.record
    record = sweep.books.close("finished")
    assert [trial.curve for trial in live.trials] == [trial.curve for trial in record.trials]
    first = record.trials[0]
    assert [(point.step, point.tokens) for point in first.curve] == [(step, TOKENS * step) for step in range(7)]
    assert (first.steps, first.tokens, first.pack, first.trainable_parameters) == (6, 6 * TOKENS, 0, 4000)
    result = sweep_result(record)
    assert (result["best_trial"], result["best_metric"]) == ("t000", first.metric)
    assert (result["num_packs"], result["tokens"]) == (6 // SLOTS + 1, 6 * 6 * TOKENS)
    for trial in result["trials"]:
        assert open_store(trial["adapter_uri"]).read("adapter_model.safetensors").decode() == trial["run_id"]


def test_a_sweep_that_is_resumed_keeps_what_is_over_and_has_one_run_for_each_trial(
    client: MlflowClient, store: Store, tmp_path: Path
):
    first = Sweep(store, tmp_path / "spool", sweep_spec("resumed"))
    first.begun(0, 6).finish()
    first.begun(1, 4)
    first.books.close("interrupted")
    left = first.read()
    assert [trial.status for trial in left.trials] == ["succeeded", "cancelled"]
    assert left.status == "interrupted"

    second = Sweep(store, tmp_path / "spool", first.spec, left)
    assert second.read().status == "running"
    going_on = second.trial(1, step=2)  # from its last save, so two steps are done again
    going_on.begin()
    going_on.train(4)
    going_on.finish()
    second.begun(2, 6).finish()
    record = second.books.close("finished")
    assert [trial.status for trial in record.trials] == ["succeeded"] * 3
    assert record.trials[0] == left.trials[0]
    assert [point.step for point in record.trials[1].curve] == list(range(7))
    assert record.mlflow_run_id == left.mlflow_run_id
    runs = children(client, "resumed", str(record.mlflow_run_id))
    assert len(runs) == 3
    assert [runs[trial.trial_id].info.run_id for trial in record.trials] == [
        trial.mlflow_run_id for trial in record.trials
    ]
    assert record.trials[1].mlflow_run_id == left.trials[1].mlflow_run_id
    assert [step for step, _ in history(client, runs["t001"], "train_loss")] == list(range(1, 7))
    assert runs["t001"].info.status == "FINISHED"


def test_a_driver_that_dies_leaves_a_record_and_no_second_run(client: MlflowClient, store: Store, tmp_path: Path):
    asked = sweep_spec("died")
    first = Sweep(store, tmp_path / "spool", asked)
    first.begun(0, 4)
    first.books._writing._due = 0.0
    first.books.write_if_due()
    left = first.read()
    assert [(trial.status, trial.steps) for trial in left.trials] == [("running", 4)]
    first.tracker._lanes.close(60)  # as its thread would have: the record does not know MLflow's ids
    second = Sweep(store, tmp_path / "spool", asked, left.model_copy(update={"trials": left.trials}))
    second.trial(0, step=4).begin()
    record = second.books.close("interrupted")
    assert list(children(client, "died", str(record.mlflow_run_id))) == ["t000"]


def test_a_driver_that_is_killed_has_told_no_metric_that_is_told_again(
    client: MlflowClient, store: Store, tmp_path: Path
):
    """It told MLflow more than it wrote down: of a trial the last steps, of the next all, and that there are runs."""
    first = Sweep(store, tmp_path / "spool", sweep_spec("killed"))
    trial = first.begun(0, 1)
    first.books._writing._due = 0.0
    first.books.write_if_due()
    left = first.read()
    assert [(known.steps, known.mlflow_run_id) for known in left.trials] == [(1, None)]
    trial.train(3)
    first.begun(1, 2)
    assert len(first.read().trials) == 1
    first.tracker._lanes.close(60)  # as its thread would have

    second = Sweep(store, tmp_path / "spool", first.spec, left)
    begun = [second.begun(number, 6) for number in (0, 1)]
    for each in begun:
        each.finish()
    record = second.books.close("finished")
    runs = children(client, "killed", str(record.mlflow_run_id))
    for name, each in zip(("t000", "t001"), begun, strict=True):
        assert history(client, runs[name], "train_loss") == [(step, each.loss(step)) for step in range(1, 7)]
        assert history(client, runs[name], "eval_loss") == [(step, each.loss(step)) for step in (0, 2, 4, 6)]


def test_a_mutated_trial_says_what_it_has_now(client: MlflowClient, store: Store, tmp_path: Path):
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("mutated"))
    trial = sweep.begun(0, 2)
    sweep.books.pause_trial(trial.run_id)
    config = trial.config | {"learning_rate": 5e-3}
    sweep.books.begin_trial(0, config, 0, trial.run_id, trial_spec(sweep.spec, config))
    record = sweep.books.close("finished")
    assert record.trials[0].config == config
    run = children(client, "mutated", str(record.mlflow_run_id))["t000"]
    assert run.data.params["learning_rate"] == "0.001"
    assert '"learning_rate": 0.005' in run.data.tags["raylora.config"]
    text = Path(client.download_artifacts(run.info.run_id, "spec.yaml", str(tmp_path))).read_text()
    assert yaml.safe_load(text)["learning_rate"] == 5e-3


def test_a_trial_that_somebody_deletes_in_mlflow_holds_up_no_other(
    client: MlflowClient, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    asked = sweep_spec("deleted")
    first = Sweep(store, tmp_path / "spool", asked)
    first.begun(0, 2)
    left = first.books.close("interrupted")
    client.delete_run(str(left.trials[0].mlflow_run_id))
    second = Sweep(store, tmp_path / "spool", asked, left)
    second.trial(0, step=2).begin()
    trial = second.begun(1, 6)
    trial.finish()
    record = second.books.close("finished")
    assert not (tmp_path / "spool").exists()
    run = children(client, "deleted", str(record.mlflow_run_id))["t001"]
    assert history(client, run, "train_loss") == [(step, trial.loss(step)) for step in range(1, 7)]
    assert caplog.text.count("run-000 was deleted: no more is sent to it") == 1


def test_many_trials_share_two_threads(client: MlflowClient, store: Store, tmp_path: Path):
    before = set(threading.enumerate())
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("threads"))
    for number in range(64):
        sweep.begun(number)
    new = [thread.name for thread in set(threading.enumerate()) - before]
    assert sorted(new) == ["raylora-artifacts", "raylora-metrics"]
    sweep.books.close("interrupted")


def test_lines_of_workers_are_shown_and_a_run_of_nobody_is_an_error(
    client: MlflowClient, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("lines"))
    sweep.books.take(Event("log", 0, {"level": logging.WARNING, "text": "rank 0: hot"}))
    sweep.books.take(Event("phase", 0, {"name": "load", "seconds": 1.0}))
    assert "rank 0: hot" in caplog.text
    with pytest.raises(KeyError, match="nobody"):
        sweep.books.take(Event("step", 1, {"train_loss": 1.0, "num_tokens": 1.0}, "nobody"))
    sweep.books.close("interrupted")


def test_system_metrics_are_the_sweeps_alone(
    client: MlflowClient, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("raylora.tracking.system.SystemSampler.__init__.__defaults__", (0.05,))
    asked = sweep_spec("system")
    place = asked.run.tracking.model_copy(update={"system_metrics": True})
    asked = asked.model_copy(update={"run": asked.run.model_copy(update={"tracking": place})})
    tracker = SweepTracker.begin(asked, "s1", tmp_path / "spool")
    samplers = [thread for thread in threading.enumerate() if thread.name == "raylora-system-metrics"]
    books = Books(store, new_record(asked), tracker)
    for number in range(3):
        PlantedTrial(books, asked, store, number).begin()
    assert [thread for thread in threading.enumerate() if thread.name == "raylora-system-metrics"] == samplers
    assert len(samplers) == 1
    record = books.close("interrupted")
    runs = children(client, "system", str(record.mlflow_run_id))
    assert len(runs) == 3
    assert not any(name.startswith("system/") for run in runs.values() for name in run.data.metrics)


@pytest.mark.parametrize(("num_told", "is_said"), [(0, False), (2, True)])
def test_a_trial_is_said_to_go_back_where_its_events_had_come_further(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, num_told: int, is_said: bool
):
    """What its searcher was told may be ahead of the events of the pack, the first of which is that it begins."""
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("back"))
    trial = sweep.begun(0, num_told)
    sweep.books.report(trial.run_id, 2, {"train_loss": 1.0})
    with caplog.at_level(logging.INFO):
        sweep.books.take(Event("start", 0, {"num_steps": 6}, trial.run_id))
    assert ("t000 had come to step 2 and goes on from step 0" in caplog.text) == is_said
    sweep.books.close("finished")
