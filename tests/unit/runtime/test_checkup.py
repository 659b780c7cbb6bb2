"""What `raylora doctor` tries: each part whole, and each part broken."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from raylora.errors import TrackingError
from raylora.runtime.checkup import Finding, checkup
from raylora.store import s3
from raylora.tracking.start import check_answers

NOWHERE = "127.0.0.1:1"
VARIABLES = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A home of its own, and an environment that names nothing."""
    for name in (*VARIABLES, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))


def found(part: str) -> Finding:
    (finding,) = [finding for finding in checkup() if finding.part == part]
    return finding


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-nobody-may-print")
    monkeypatch.setattr(s3, "CHECK_PATIENCE_S", 0)


def test_it_leaves_nothing(tmp_path: Path):
    states = {finding.part: finding.state for finding in checkup()}
    assert states["DeepSpeed"] == states["Ray"] == states["MLflow"] == states["storage"] == "ok"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_deepspeed_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "raylora.strategy.deepspeed", raising=False)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    finding = found("DeepSpeed")
    assert finding.state == "missing"
    assert "deepspeed" in finding.text


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", NOWHERE)
    assert found("Ray").state == "missing"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert found("Ray").state == "limited"
    assert "not tried" in found("Ray").text


def test_an_mlflow_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:a-password@{NOWHERE}")
    finding = found("MLflow")
    assert finding.state == "missing"
    assert "does not answer" in finding.text
    assert "a-password" not in finding.text


def test_an_mlflow_that_listens_and_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TrackingError, match="does not answer"):
        check_answers(f"http://127.0.0.1:{server.getsockname()[1]}", patience_s=0.2)


def test_a_folder_is_no_mlflow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert found("MLflow").state == "missing"


def test_a_file_that_is_no_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("not a database, and long enough to be none" * 50)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert found("MLflow").state == "missing"


def test_a_bucket_without_a_key():
    assert found("S3").state == "limited"
    assert "AWS_ACCESS_KEY_ID" in found("S3").text


def test_a_key_without_an_endpoint_is_not_tried(keys: None):
    assert found("S3").state == "limited"
    assert "not tried" in found("S3").text


def test_an_endpoint_that_does_not_answer(keys: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{NOWHERE}")
    finding = found("S3")
    assert finding.state == "missing"
    assert "a-secret-nobody-may-print" not in finding.text
