"""What `raylora doctor` tries: each part whole, and each part broken."""

from __future__ import annotations

import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from raylora.errors import TrackingError
from raylora.runtime.checkup import checkup, tried
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


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-nobody-may-print")


def test_it_leaves_nothing(tmp_path: Path):
    states = {finding.part: finding.state for finding in checkup()}
    for part in ("bitsandbytes", "DeepSpeed", "Ray", "MLflow", "storage"):
        assert states[part] == "ok", part
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("part", "package", "module"),
    [
        ("bitsandbytes", "bitsandbytes.functional", "raylora.model.base.quant"),
        ("DeepSpeed", "deepspeed", "raylora.strategy.deepspeed"),
    ],
)
def test_a_package_that_cannot_be_imported(part: str, package: str, module: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    finding = tried(part)
    assert finding.state == "missing"
    assert package in finding.text


def test_weights_that_do_not_come_back(monkeypatch: pytest.MonkeyPatch):
    """Packages that can be imported, and compute something else."""
    from raylora.model.base import quant
    from raylora.strategy.deepspeed import Zero3

    nothing = torch.full((64, 64), float("nan"))
    monkeypatch.setattr(quant, "dequantize_4bit", lambda values, state: nothing)
    monkeypatch.setattr(Zero3, "full", lambda self, parameter: nothing)
    for part, words in (("bitsandbytes", "mean error nan .*, where 0.07 is due"), ("DeepSpeed", "does not give back")):
        finding = tried(part)
        assert finding.state == "missing"
        assert re.search(words, finding.text)
    assert not torch.distributed.is_initialized()


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", NOWHERE)
    assert tried("Ray").state == "missing"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert tried("Ray").state == "limited"
    assert "not tried" in tried("Ray").text


def test_an_mlflow_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:a-password@{NOWHERE}")
    finding = tried("MLflow")
    assert finding.state == "missing"
    assert "does not answer" in finding.text
    assert "a-password" not in finding.text


def test_an_mlflow_that_listens_and_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TrackingError, match="does not answer"):
        check_answers(f"http://127.0.0.1:{server.getsockname()[1]}", patience_s=0.2)


def test_a_folder_is_no_mlflow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert tried("MLflow").state == "missing"


def test_a_file_that_is_no_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("not a database, and long enough to be none" * 50)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert tried("MLflow").state == "missing"


def test_a_place_where_no_database_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    assert tried("MLflow").state == "missing"


def test_a_bucket_without_a_key():
    assert tried("S3").state == "limited"
    assert "AWS_ACCESS_KEY_ID" in tried("S3").text


def test_a_key_without_an_endpoint_is_tried_at_aws(keys: None, monkeypatch: pytest.MonkeyPatch):
    """The way there is closed: by a proxy that is not there."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://{NOWHERE}")
    finding = tried("S3")
    assert finding.state == "missing"
    assert "AWS does not answer" in finding.text


class Forbidding(BaseHTTPRequestHandler):
    """An S3 that knows every key and lets none list buckets."""

    def do_GET(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_a_key_that_may_not_list_buckets(keys: None, monkeypatch: pytest.MonkeyPatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Forbidding) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        finding = tried("S3")
        server.shutdown()
    assert finding.state == "limited"
    assert "takes the credentials (env), and does not let them list buckets" in finding.text


def test_an_endpoint_that_listens_and_says_nothing(keys: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3, "LIST_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        finding = tried("S3")
    assert finding.state == "missing"
    assert "does not answer" in finding.text


def test_a_profile_that_is_in_no_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_PROFILE", "of-nobody")
    finding = tried("S3")
    assert finding.state == "missing"
    assert "of-nobody" in finding.text


def test_an_endpoint_that_does_not_answer(keys: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{NOWHERE}")
    finding = tried("S3")
    assert finding.state == "missing"
    assert "a-secret-nobody-may-print" not in finding.text
