"""Which commands of the tests are forked: all that start in the environment in which their driver was imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.command import Command, is_as_imported


def test_what_libraries_set_in_this_process_is_not_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As Ray does, after which each command would import all anew."""
    monkeypatch.setenv("PYTHONBREAKPOINT", "ray.util.rpdb._driver_set_trace")
    command = Command(tmp_path, tmp_path / "home", {"RAY_ADDRESS": "127.0.0.1:1", "AWS_REGION": "none"})
    assert "PYTHONBREAKPOINT" not in command.env
    assert is_as_imported(command.env)


def test_a_command_in_another_environment_is_not_forked(tmp_path: Path):
    assert not is_as_imported(Command(tmp_path, tmp_path / "home", {"PYTHONPATH": str(tmp_path)}).env)
    assert not is_as_imported(Command(tmp_path, tmp_path / "home", {"HF_HUB_OFFLINE": "0"}).env)
