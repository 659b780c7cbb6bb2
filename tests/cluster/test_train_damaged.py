"""A run that is cut off, and whose newest checkpoint is then damaged: it says so and goes on from the one before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.store.runs import run_store
from tests.cluster.command import Command, Ended, wait_until
from tests.cluster.damage import DAMAGES
from tests.cluster.undisturbed import assert_each_step_told_once, assert_trained_like
from tests.servers.ray import RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cut_off(workplace: Path, ray_head: RayHead, new_home: Callable[[], Path]) -> tuple[Path, str]:
    """Ray Train's controller alone is killed: the command says so and ends, and no worker goes on.

    Returns:
        The home of such a run, and its name.
    """
    ray_head.forget_workers()
    command = Command(workplace, new_home(), ray_head.env)
    running = command.start("train", "run.yaml", "--json", "--set", "save_steps=4")
    running.wait_for("step 10/")
    (controller,) = ray_head.processes_of("TrainController")
    controller.kill()
    ended = running.end()
    assert ended.code == 1, ended.err
    assert ended.left_behind == ()
    assert "Ray Train gave up" in ended.error
    wait_until(lambda: not any(map(psutil.pid_exists, ray_head.seen_by_workers())), 60)
    (run,) = command.run("runs", "--json").json["runs"]
    assert run["status"] == "failed"
    return command.home, run["run_id"]


@pytest.mark.parametrize("way", DAMAGES)
def test_a_run_outlives_its_controller_and_a_damaged_checkpoint(
    workplace: Path,
    ray_head: RayHead,
    cut_off: tuple[Path, str],
    whole_run: tuple[Command, Ended],
    tmp_path: Path,
    way: str,
):
    """Each damage is done to a copy of what was left."""
    home, run_id = cut_off
    command = Command(workplace, Path(shutil.copytree(home, tmp_path / "home")), ray_head.env)
    own = run_store(open_store(str(command.home / "store")), run_id)
    newest = load_latest(own)
    assert newest is not None and newest.step >= 8
    DAMAGES[way](own, newest.step)
    ended = command.run("resume", run_id, "--json")
    how_it_is = "INCOMPLETE" if way == "manifest missing" else "CORRUPT, going on from another"
    assert f"CHECKPOINT AT STEP {newest.step} IS {how_it_is}" in ended.err
    assert ended.begun == [newest.step - 4]
    assert_trained_like(ended, whole_run)
    assert_each_step_told_once(command, ended)
