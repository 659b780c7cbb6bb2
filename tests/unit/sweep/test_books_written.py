"""When the books of a sweep write its record."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from raylora.errors import StoreError
from raylora.store.local import FolderStore
from raylora.sweep import record_writing
from raylora.sweep.launch import _Launch
from raylora.sweep.steering.drive import TrialOutcome
from tests.unit.sweep.planted_sweep import Sweep, open_books, sweep_spec

pytestmark = pytest.mark.slow


class CountingStore(FolderStore):
    """Counts what is written, and can be away."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.num_writes, self.is_away = 0, False

    def write(self, key: str, data: bytes) -> None:
        self.num_writes += 1
        if self.is_away:
            raise StoreError("no route to the store")
        super().write(key, data)


def test_the_record_is_not_written_with_every_event(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(record_writing, "WRITE_S", 1e6)
    store = CountingStore(tmp_path / "store")
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("writes"))
    assert store.num_writes == 1
    trial = sweep.begun(0, 100)
    assert store.num_writes == 2
    assert sweep.read().trials[0].steps == 0
    assert sweep.books.record.trials[0].steps == 100
    sweep.books._writing._due = 0.0
    sweep.books.write_if_due()
    sweep.books._writing._due = 0.0
    sweep.books.write_if_due()  # nothing is new
    assert store.num_writes == 3
    assert sweep.read().trials[0].steps == 100
    sweep.books.end_trial(trial.run_id, "succeeded")
    sweep.books.close("finished")
    assert sweep.read().trials[0].status == "succeeded"


def test_a_store_that_is_away_for_a_while_ends_no_sweep(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(record_writing, "WRITE_S", 0.0)
    monkeypatch.setattr(record_writing, "WRITE_SHARE", 1e9)
    store = CountingStore(tmp_path / "store")
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("away"))
    store.is_away = True
    trial = sweep.begun(0, 4)
    assert caplog.text.count("the sweep's record cannot be written: no route to the store") == 1
    store.is_away = False
    trial.train(2)
    assert sweep.read().trials[0].steps == 6
    store.is_away = True
    with pytest.raises(StoreError):
        sweep.books.close("finished")
    assert client.get_run(sweep.tracker.mlflow_run_id).info.status == "FINISHED"


def test_the_record_is_written_when_asked_for_if_there_is_news(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(record_writing, "WRITE_S", 1e6)
    store = CountingStore(tmp_path / "store")
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("asked"))
    trial = sweep.begun(0, 4)
    assert sweep.read().trials[0].steps == 0
    for _ in range(2):
        sweep.books.write()
    assert store.num_writes == 3
    assert sweep.read().trials[0].steps == 4
    assert sweep.books.knows(trial.run_id) and not sweep.books.knows("another")


def test_what_the_record_lacks_of_a_trial_comes_from_how_it_ended(client: MlflowClient, tmp_path: Path):
    """As after a driver was killed between keeping a trial's end and writing of it."""
    store, spec = FolderStore(tmp_path / "store"), sweep_spec("settled", repeats=2)
    launch = _Launch(spec, None, lambda standing: None)
    launch._books, _ = open_books(store, spec, launch._record, tmp_path / "spool")
    sampled = {"lora_r": 8, "learning_rate": 1e-4}
    repeats = launch._trials.repeats(sampled, 3)
    launch._books.begin_trial(6, sampled, 0, repeats[0].run_id, repeats[0].spec)  # of the other nothing is known
    told = [
        {
            **{"run_id": repeat.run_id, "step": 6, "eval_loss": loss, "num_tokens": 192, "finished": True},
            "adapter_uri": f"{loss}/adapter",
        }
        for repeat, loss in zip(repeats, (1.25, 1.5), strict=True)
    ]
    launch._settle([TrialOutcome(3, sampled, "succeeded", {"repeats": told, "finished": True}, None)], was_cut=False)
    trials = launch._books.close("finished").trials
    assert [(trial.trial_id, trial.status, trial.steps, trial.tokens) for trial in trials] == [
        ("t006", "succeeded", 6, 192),
        ("t007", "succeeded", 6, 192),
    ]
    assert [(trial.metric, trial.adapter_uri) for trial in trials] == [(1.25, "1.25/adapter"), (1.5, "1.5/adapter")]
