"""What `raylora doctor` says of real servers: there, there for others, and gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.runtime.checkup import tried
from tests.servers.mlflow import MlflowServer
from tests.servers.s3 import SECRET, S3Server

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)


def test_a_bucket_of_ours(s3_env: S3Server):
    finding = tried("S3")
    assert finding.state == "ok", finding
    assert f"{s3_env.endpoint} takes the credentials (env) and lists 1 bucket(s)" in finding.text


def test_a_bucket_of_ours_by_credentials_of_a_file(s3_env: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = owner\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    finding = tried("S3")
    assert finding.state == "ok", finding
    assert "takes the credentials (shared-credentials-file) and lists 1 bucket(s)" in finding.text


def test_a_wrong_key(s3_env: S3Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-key-nobody-may-print")
    finding = tried("S3")
    assert finding.state == "missing"
    assert "AWS_SECRET_ACCESS_KEY" in finding.text
    assert "wrong-key-nobody-may-print" not in finding.text


def test_a_bucket_that_is_gone(s3_env: S3Server):
    s3_env.stop()
    try:
        finding = tried("S3")
    finally:
        s3_env.start()
    assert finding.state == "missing"
    assert "does not answer" in finding.text
    assert SECRET not in finding.text
    assert tried("S3").state == "ok"


def test_an_mlflow_that_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = MlflowServer(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert tried("MLflow").state == "missing"
    server.start()
    try:
        finding = tried("MLflow")
    finally:
        server.stop()
    assert (finding.state, f"{server.uri} answers" in finding.text) == ("ok", True)
    assert tried("MLflow").state == "missing"
