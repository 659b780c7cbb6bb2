"""Which of the driver's variables workers get, and which network they meet on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from raylora.runtime.environment import forwarded
from raylora.runtime.network import interface_of

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


def test_an_address_is_found_on_its_interface():
    found = interface_of("127.0.0.1")
    assert found in {name for _, name in socket.if_nameindex()}
    assert int(Path(f"/sys/class/net/{found}/flags").read_text(), 16) & 8, "a loopback"
    assert interface_of("192.0.2.255") is None
