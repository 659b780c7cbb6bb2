"""Sweeps that cannot be: exit code 2 with every problem before anything is trained, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cluster.command import Command
from tests.cluster.conftest import GRID
from tests.cluster.refused import SOON_S, refused
from tests.servers.ray import RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def asked(command: Command, name: str, **changes: object) -> str:
    (command.folder / name).write_text(yaml.safe_dump(GRID | changes))
    return name


def test_all_problems_of_a_file_are_told_at_once(workplace: Path, tmp_path: Path):
    command = Command(workplace, tmp_path / "home")
    wrong = {"schedular": "asha", "searcher": "greed", "space": {"lora_q": {"choice": [1]}, "lora_r": {"choice": []}}}
    ended = command.run("sweep", asked(command, "wrong.yaml", **wrong), "--json", timeout_s=SOON_S)
    refused(command, ended)
    fields = {problem["field"] for problem in ended.json["error"]["problems"]}
    assert {"schedular", "searcher"} <= fields
    assert any("lora_q" in field for field in fields)
    assert any("lora_r" in field for field in fields)


def test_a_store_that_cannot_be_written(newcomer: Command, ray_head: RayHead, tmp_path: Path):
    (tmp_path / "file").touch()
    name = asked(newcomer, "unwritable.yaml")
    place = f"storage.uri={tmp_path}/file/store"
    ended = newcomer.run("sweep", name, "--json", "--set", place, timeout_s=SOON_S)
    assert "storage.uri" in refused(newcomer, ended)
    assert ray_head.census() == {"actors": [], "groups": []}


def test_repeats_that_have_no_room_side_by_side(newcomer: Command, ray_head: RayHead):
    """Each would wait for ever for the other's report."""
    ended = newcomer.run("sweep", asked(newcomer, "repeats.yaml", repeats=2), "--json", "--set", "adapter_bank=peft")
    said = refused(newcomer, ended)
    assert "repeats: the 2 runs of a trial train side by side, and there is room for 1" in said
    assert "adapter_bank: peft" in said
    assert ray_head.census() == {"actors": [], "groups": []}


def test_a_sweep_that_does_not_exist(workplace: Path, tmp_path: Path):
    command = Command(workplace, tmp_path / "home")
    ended = command.run("resume", "20260101-000000-abcdef", "--json", timeout_s=SOON_S)
    assert "20260101-000000-abcdef" in refused(command, ended)
