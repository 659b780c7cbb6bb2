"""What a run that goes on at its last step leaves behind: this process saw no step of it, and no checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from raylora.errors import MissingObjectError
from raylora.model.export import FOLDER
from raylora.runtime.ledger import Ledger
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.manifest import publish
from raylora.tracking.delivery import Delivery
from raylora.tracking.spool import Entry
from raylora.tracking.tracker import Tracker
from raylora.train.events import Event, EventKind
from tests.unit.tracking.sqlite_home import client, home

__all__ = ["client", "home"]

pytestmark = pytest.mark.slow

SPEC = RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}], tracking={"system_metrics": False})
CHECKPOINT = "/store/runs/r/checkpoints/step-00000004"


class Driver:
    """One process that follows a run."""

    def __init__(self, folder: Path, run_id: str, mlflow_run_id: str | None = None) -> None:
        self.tracker = Tracker.start(SPEC, run_id, folder / "spool", mlflow_run_id)
        self.store = open_store(str(folder / "store"))
        self.ledger = Ledger(self.tracker, self.store, "a run")
        if mlflow_run_id:
            self.ledger.ask()

    def hear(self, kind: EventKind, step: int, values: Mapping[str, Any]) -> None:
        self.ledger.take(Event(kind, step, values))

    def hear_outcome(self, ending: str, adapter_uri: str | None = None, ranks: Mapping[str, int] | None = None) -> None:
        outcome = {"ending": ending, "progress": {"step": 4}, "checkpoint_uri": CHECKPOINT, "adapter_uri": adapter_uri}
        self.hear("outcome", 4, outcome | {"ranks": ranks or {}})


@pytest.mark.parametrize("ending", ["finished", "stopped"])
def test_the_result_names_the_checkpoint_and_the_picture_shows_the_run(
    client: MlflowClient, tmp_path: Path, ending: str
):
    cut_off = Driver(tmp_path, ending)
    cut_off.hear("start", 0, {"num_steps": 4})
    for step in range(1, 5):
        cut_off.hear("step", step, {"train_loss": 3.0 / step})
    assert cut_off.tracker.finish("failed") == {}

    resumed = Driver(tmp_path, ending, cut_off.tracker.mlflow_run_id)
    resumed.hear("start", 4, {"num_steps": 4})
    resumed.hear_outcome(ending)
    resumed.ledger.close()
    assert resumed.tracker.finish("finished") == {}
    assert resumed.ledger.stopped == (ending == "stopped")
    assert resumed.ledger.result()["checkpoint_uri"] == CHECKPOINT
    assert "loss.png" in {file.path for file in client.list_artifacts(resumed.tracker.mlflow_run_id)}


@pytest.mark.parametrize("ranks", [{"model.layers.0.q_proj": 3, "model.layers.1.q_proj": 0}, {}], ids=["some", "none"])
def test_ranks_that_are_left_are_drawn_and_told(client: MlflowClient, tmp_path: Path, ranks: dict[str, int]):
    driver = Driver(tmp_path, f"ranks-{len(ranks)}")
    driver.hear("step", 4, {"train_loss": 1.0})
    driver.hear_outcome("finished", ranks=ranks)
    driver.ledger.close()
    assert driver.tracker.finish("finished") == {}
    assert driver.ledger.result()["ranks_by_layer"] == (ranks or None)
    files = {file.path for file in client.list_artifacts(driver.tracker.mlflow_run_id)}
    assert files & {"loss.png", "ranks.png", "ranks.json"} == {"loss.png"} | (
        {"ranks.png", "ranks.json"} if ranks else set()
    )


def refuse(self: Delivery, entries: Sequence[Entry]) -> None:
    raise ConnectionError("MLflow is away")


@pytest.mark.parametrize("sent", [True, False], ids=["MLflow has them", "on their way"])
def test_steps_that_a_killed_driver_told_after_its_last_checkpoint_are_told_once(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bool
):
    with monkeypatch.context() as away:
        if not sent:
            away.setattr(Delivery, "__call__", refuse)
        killed = Driver(tmp_path, f"killed-{sent}")
        killed.hear("start", 0, {"num_steps": 8})
        for step in range(1, 7):
            killed.hear("step", step, {"train_loss": 3.0 / step})
        killed.tracker._lanes.close(20 if sent else 0)
    resumed = Driver(tmp_path, f"killed-{sent}", killed.tracker.mlflow_run_id)
    resumed.hear("start", 4, {"num_steps": 8})
    for step in range(5, 9):
        resumed.hear("step", step, {"train_loss": 3.0 / step})
    assert resumed.tracker.finish("finished") == {}
    points = client.get_metric_history(resumed.tracker.mlflow_run_id, "train_loss")
    assert [point.step for point in points] == list(range(1, 9))


def test_without_room_for_a_copy_of_the_adapter_the_run_has_finished_and_mlflow_gets_it_later(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    driver = Driver(tmp_path, "full")
    driver.hear("start", 0, {"num_steps": 4})
    driver.hear("step", 4, {"train_loss": 1.0})
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
    driver.hear_outcome("finished", publish(driver.store, FOLDER, files, {"eval_loss": 0.5}))
    with monkeypatch.context() as no_room:
        no_room.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        driver.ledger.close()
    assert "MLflow gets no loss.png" in caplog.text
    assert driver.tracker.finish("finished") == {}
    run_id = driver.tracker.mlflow_run_id
    copy = Path(client.download_artifacts(run_id, FOLDER, str(tmp_path)))
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == files
    assert client.get_run(run_id).data.tags["raylora.eval_loss"] == "0.5"


def test_an_adapter_that_is_not_in_the_store_is_no_end(client: MlflowClient, tmp_path: Path):
    """As where workers wrote it into a folder of their own machine."""
    driver = Driver(tmp_path, "elsewhere")
    driver.hear_outcome("finished", "/store/runs/r/adapter")
    with pytest.raises(MissingObjectError):
        driver.ledger.close()
    driver.tracker.finish("failed")
