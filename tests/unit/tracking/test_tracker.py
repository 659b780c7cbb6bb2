"""The tracker on MLflow's SQLite store, without a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from raylora.errors import InputError, TrackingError
from raylora.spec.run import RunSpec
from raylora.tracking.inputs import DatasetUse
from raylora.tracking.tracker import Tracker
from tests.unit.tracking.sqlite_home import client, home

__all__ = ["client", "home"]

pytestmark = pytest.mark.slow


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def spec(experiment: str = "raylora", **tracking: object) -> RunSpec:
    where = {"experiment": experiment, "system_metrics": False} | tracking
    return RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}], tracking=where)


def history(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def runs_of(client: MlflowClient, experiment: str) -> list[Run]:
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_a_run_has_everything_that_was_logged(
    client: MlflowClient, spool: Path, tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "adapter" / "sub").mkdir(parents=True)
    (tmp_path / "adapter" / "sub" / "weights").write_bytes(b"w")
    (tmp_path / "picture.png").write_bytes(b"p")
    asked = spec("everything")
    tracker = Tracker.start(asked, "r-all", spool)
    for step in range(3):
        tracker.log_metrics(step, {"loss": 3.0 - step, "eval/50%": 1.0})
    tracker.log_metrics(3, {"loss": float("nan")})
    tracker.log_tags({"raylora.base_digest": "b" * 64})
    uses = [
        DatasetUse("d.jsonl", "s3://b/d.jsonl", "d" * 64, context, 10, 100) for context in ("training", "validation")
    ]
    tracker.log_inputs([uses[0]])
    tracker.log_inputs([uses[0]])
    tracker.log_picture("loss.png", tmp_path / "picture.png")
    tracker.log_folder(tmp_path / "adapter", "adapter")
    (tmp_path / "picture.png").unlink()
    assert tracker.finish("finished") == {}
    assert not spool.exists()
    assert capfd.readouterr().out == ""

    run = client.get_run(tracker.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "r-all"
    assert history(client, run.info.run_id, "loss")[:3] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert [step for step, _ in history(client, run.info.run_id, "eval/50_")] == [0, 1, 2]
    assert run.data.params["distributed.strategy"] == "ddp"
    assert run.data.tags["raylora.run_id"] == "r-all"
    assert run.data.tags["raylora.spec_digest"] == asked.digest
    assert run.data.tags["raylora.base_digest"] == "b" * 64
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.source_type, used.tags[0].value) == ("d.jsonl", "s3", "training")
    folder = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert RunSpec.model_validate(yaml.safe_load((folder / "spec.yaml").read_text())) == asked
    assert (folder / "loss.png").read_bytes() == b"p"
    assert (folder / "adapter" / "sub" / "weights").read_bytes() == b"w"
    assert run.info.artifact_uri.startswith((home / "mlartifacts").as_uri())
    assert tracker.how_to_open.endswith(f"mlflow ui --backend-store-uri sqlite:///{home}/mlflow.db")


@pytest.mark.parametrize(("status", "shown"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_resumed_training_goes_on_in_its_one_run(client: MlflowClient, spool: Path, status: str, shown: str):
    asked = spec(f"resumed-{status}")
    first = Tracker.start(asked, "r1", spool)
    first.log_metrics(1, {"loss": 3.0})
    first.finish(status)
    assert client.get_run(first.mlflow_run_id).info.status == shown

    second = Tracker.start(asked, "r1", spool, mlflow_run_id=first.mlflow_run_id)
    second.log_metrics(2, {"loss": 2.0})
    second.finish("finished")
    (run,) = runs_of(client, f"resumed-{status}")
    assert second.mlflow_run_id == first.mlflow_run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    assert history(client, run.info.run_id, "loss") == [(1, 3.0), (2, 2.0)]


def test_a_run_whose_id_was_not_kept_is_found_again(client: MlflowClient, spool: Path):
    first = Tracker.start(spec("found"), "r1", spool / "1")
    second = Tracker.start(spec("found"), "r1", spool / "2")
    other = Tracker.start(spec("found"), "r2", spool / "3")
    for tracker in (first, second, other):
        tracker.finish("finished")
    assert first.mlflow_run_id == second.mlflow_run_id != other.mlflow_run_id
    assert len(runs_of(client, "found")) == 2


def test_a_user_without_a_name_is_known_by_number(client: MlflowClient, spool: Path, monkeypatch: pytest.MonkeyPatch):
    """Kubernetes and OpenShift run containers as numbers that no password file has."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1_000_660_000)
    tracker = Tracker.start(spec("nameless"), "r1", spool)
    tracker.finish("finished")
    assert client.get_run(tracker.mlflow_run_id).data.tags["mlflow.user"] == "1000660000"


CRASHING = """
import os, sys, time
from pathlib import Path
from raylora.spec.run import RunSpec
from raylora.tracking import outbox
from raylora.tracking.tracker import Tracker
outbox.GATHER_S = 0.05
tracking = {"experiment": "crash", "system_metrics": False}
spec = RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}], tracking=tracking)
tracker = Tracker.start(spec, "r1", Path(sys.argv[1]))
print(tracker.mlflow_run_id, flush=True)
for step in range(100_000):
    tracker.log_metrics(step, {"loss": float(step)})
    print(step, flush=True)
    time.sleep(0.001)
"""


def test_a_training_that_is_killed_loses_no_metric_and_doubles_none(client: MlflowClient, spool: Path):
    command = [sys.executable, "-c", CRASHING, str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as training:
        assert training.stdout is not None
        lines = (line.strip() for line in training.stdout)
        run_id = next(lines)
        steps: list[int] = []
        while len(steps) < 400 or not history(client, run_id, "loss"):
            steps.append(int(next(lines)))
        training.send_signal(signal.SIGKILL)
        steps += [int(line) for line in lines if line]
    delivered = history(client, run_id, "loss")
    # As if it had been killed between MLflow's answer and the note of it.
    (spool / "values" / "acknowledged").unlink(missing_ok=True)

    again = Tracker.start(spec("crash"), "r1", spool, mlflow_run_id=run_id)
    assert again.finish("finished") == {}
    logged = history(client, run_id, "loss")
    assert 0 < len(delivered) <= len(logged)
    # The very last step may have been kept without having been printed.
    assert logged[: len(steps)] == [(step, float(step)) for step in steps]
    assert len(logged) <= len(steps) + 1


def test_system_metrics_are_logged_beside_the_training(
    client: MlflowClient, spool: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("raylora.tracking.system.SystemSampler.__init__.__defaults__", (0.05,))
    tracker = Tracker.start(spec("system", system_metrics=True), "r1", spool)
    name = "system/system_memory_usage_megabytes"
    while not (logged := history(client, tracker.mlflow_run_id, name)):
        time.sleep(0.1)
    tracker.finish("finished")
    assert all(value > 0 for _, value in logged)


def test_an_experiments_artifacts_cannot_be_somewhere_else(client: MlflowClient, spool: Path, tmp_path: Path):
    place = (tmp_path / "artifacts").as_uri()
    Tracker.start(spec("placed", artifact_uri=place), "r1", spool).finish("finished")
    Tracker.start(spec("placed", artifact_uri=place + "/"), "r2", spool).finish("finished")
    assert len(list((tmp_path / "artifacts").glob("*/artifacts/spec.yaml"))) == 2
    with pytest.raises(InputError, match=r"keeps its artifacts in .*that cannot change"):
        Tracker.start(spec("placed", artifact_uri="s3://other/place"), "r3", spool)


def test_artifacts_that_cannot_be_written_are_said_before_training(client: MlflowClient, spool: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        TrackingError, match=r"artifacts cannot be written to .*/file/.*artifact_uri or its credentials"
    ):
        Tracker.start(spec("unwritable", artifact_uri=(tmp_path / "file" / "x").as_uri()), "r1", spool)
    (run,) = runs_of(client, "unwritable")
    assert run.info.status == "FAILED"
    assert not spool.exists()


def test_a_run_or_experiment_that_is_gone_is_said(client: MlflowClient, spool: Path):
    with pytest.raises(TrackingError, match=r"refuses the run .*abc"):
        Tracker.start(spec(), "r1", spool, mlflow_run_id="abc")
    tracker = Tracker.start(spec("gone"), "r1", spool)
    tracker.finish("finished")
    client.delete_run(tracker.mlflow_run_id)
    with pytest.raises(TrackingError, match="was deleted; run `mlflow runs restore`"):
        Tracker.start(spec("gone"), "r1", spool, mlflow_run_id=tracker.mlflow_run_id)
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(InputError, match="'gone' was deleted in MLflow; name another"):
        Tracker.start(spec("gone"), "r2", spool)
