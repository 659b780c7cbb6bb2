"""Which of the driver's variables workers get, and which network they meet on."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from raylora.runtime.cluster.environment import forwarded, put_on, withheld
from raylora.runtime.cluster.network import interface_of

PASSWORD = "MLFLOW_TRACKING_PASSWORD"
"""Of the driver alone: no worker writes to MLflow."""


def test_listed_and_named_variables_and_no_others(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "https_proxy", "no_proxy", "MINE", "OTHERS", "PATH", PASSWORD):
        monkeypatch.setenv(name, f"value of {name}")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    found = forwarded(["MINE", "NOT_SET"])
    assert found["AWS_SECRET_ACCESS_KEY"] == "value of AWS_SECRET_ACCESS_KEY"
    assert found["https_proxy"] == "value of https_proxy", "most hosts set it in small letters"
    assert found["no_proxy"] == "value of no_proxy"
    assert found["MINE"] == "value of MINE"
    assert {"OTHERS", "PATH", "NOT_SET", "AWS_PROFILE", PASSWORD}.isdisjoint(found)


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
        *("AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ],
)
def test_credentials_in_files_and_roles_are_forwarded(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "/a/file")
    assert forwarded([])[name] == "/a/file"


def test_what_a_worker_inherits_is_listed_named_or_the_systems():
    systems = ["PATH", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "RAY_AUTH_TOKEN", "OMP_NUM_THREADS", "RANK"]
    numerical = ["CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "TORCH_LOGS", "HF_HUB_OFFLINE", "TQDM_DISABLE"]
    strange = ["MLFLOW_TRACKING_URI", PASSWORD, "OPENAI_API_KEY", "HUGGING_FACE_HUB_TOKEN", "AWS_OTHER", "PATHS"]
    assert withheld(["AWS_PROFILE", "MINE", *strange, *systems, *numerical], ["MINE"]) == sorted(strange)


def test_what_is_put_on_is_there_and_what_is_withheld_is_not(monkeypatch: pytest.MonkeyPatch):
    for name in ("MINE", PASSWORD):
        monkeypatch.setenv(name, "as inherited")
    put_on({"MINE": "as told", PASSWORD: None, "NEVER_SET": None})
    assert os.environ["MINE"] == "as told"
    assert {PASSWORD, "NEVER_SET"}.isdisjoint(os.environ)


def test_an_address_is_found_on_its_interface():
    found = interface_of("127.0.0.1")
    assert found in {name for _, name in socket.if_nameindex()}
    assert int(Path(f"/sys/class/net/{found}/flags").read_text(), 16) & 8, "a loopback"
    assert interface_of("192.0.2.255") is None
