"""When the books of a sweep write its record."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from raylora.errors import StoreError
from raylora.store.local import FolderStore
from raylora.sweep import books as books_module
from tests.unit.sweep.planted_sweep import Sweep, sweep_spec

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
    monkeypatch.setattr(books_module, "WRITE_S", 1e6)
    store = CountingStore(tmp_path / "store")
    sweep = Sweep(store, tmp_path / "spool", sweep_spec("writes"))
    assert store.num_writes == 1
    trial = sweep.begun(0, 100)
    assert store.num_writes == 2
    assert sweep.read().trials[0].steps == 0
    assert sweep.books.record.trials[0].steps == 100
    sweep.books._due = 0.0
    sweep.books.write_if_due()
    sweep.books._due = 0.0
    sweep.books.write_if_due()  # nothing is new
    assert store.num_writes == 3
    assert sweep.read().trials[0].steps == 100
    sweep.books.end_trial(trial.run_id, "succeeded")
    sweep.books.close("finished")
    assert sweep.read().trials[0].status == "succeeded"


def test_a_store_that_is_away_for_a_while_ends_no_sweep(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(books_module, "WRITE_S", 0.0)
    monkeypatch.setattr(books_module, "WRITE_SHARE", 1e9)
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
