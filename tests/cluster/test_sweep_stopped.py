"""Sweeps that are cut off, and workers that are killed: what was done is kept, and the end is that of one undisturbed.

The cluster was there before, and nothing of a sweep is left on it, however the sweep ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raylora.store.blob import open_store
from tests.cluster.command import Command, Ended, Running, overrides, wait_until
from tests.cluster.conftest import GRID
from tests.cluster.made_sweeps import (
    each_step_told_once,
    ended_by_tune,
    num_saved,
    same_ends,
    the_record,
    undisturbed,
    whole,
)
from tests.cluster.stopped import AGAIN_FROM_THE_BEGINNING, NOTHING, UNDER_WAY, kill_the_worker, workers
from tests.servers.ray import RayHead

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def command(workplace: Path, ray_head: RayHead, new_home: Callable[[], Path]) -> Command:
    return Command(workplace, new_home(), ray_head.env)


@pytest.fixture(scope="module")
def interrupted(command: Command, undisturbed: dict[str, Any], ray_head: RayHead) -> Ended:
    """Ctrl-C at a terminal, which reaches every process."""
    running = command.start("sweep", "grid.yaml", "--json")
    running.wait_for(UNDER_WAY)
    wait_until(lambda: all_have_begun(command), 60)
    running.interrupt()
    ended = running.end()
    assert ray_head.census() == NOTHING
    return ended


@pytest.fixture(scope="module")
def killed(command: Command, interrupted: Ended, ray_head: RayHead) -> Ended:
    """The driver of the resumed sweep, killed at once when it trains again."""
    assert interrupted.code == 130, interrupted.err
    running = command.start("resume", the_record(command).sweep_id, "--json")
    running.wait_for("training")
    os.kill(running.process.pid, signal.SIGKILL)
    ended = running.end()
    wait_until(lambda: ray_head.census() == NOTHING, 60)
    return ended


@pytest.fixture(scope="module")
def last(command: Command, killed: Ended, ray_head: RayHead) -> Ended:
    assert killed.code == -signal.SIGKILL
    ended = command.run("resume", the_record(command).sweep_id, "--json")
    assert ray_head.census() == NOTHING
    return ended


@pytest.fixture(scope="module")
def finished(last: Ended) -> dict[str, Any]:
    return whole(last)


def all_have_begun(command: Command) -> bool:
    """Whether each trial has done a step.

    One without any has nothing to save at Ctrl-C, and rightly begins again where the driver that resumed it is killed
    before it has kept a report of it.
    """
    trials = the_record(command).trials
    return len(trials) == len(GRID["space"]["learning_rate"]["choice"]) and all(trial.steps > 0 for trial in trials)


def kill_once_kept(running: Running, ray_head: RayHead, is_kept: Callable[[], bool]) -> None:
    """Kill the driver when Tune has kept something, as it does between saves; trials stand still most of the time."""
    while running.process.poll() is None:
        with ray_head.at_rest(), suppress(TimeoutError):
            wait_until(is_kept, 1.0)
            os.kill(running.process.pid, signal.SIGKILL)
            return


def test_a_sweep_whose_driver_was_killed_goes_on_and_keeps_what_had_ended(
    on_head: Command, ray_head: RayHead, undisturbed: dict[str, Any]
):
    """One trial after the other: the first came to its end, and others are still to come."""
    ray_head.forget_workers()
    running = on_head.start("sweep", "grid.yaml", "--json", *overrides("slots=1"))
    running.wait_for("t000 succeeded")
    kill_once_kept(running, ray_head, lambda: 0 in ended_by_tune(on_head))
    assert running.end().code == -signal.SIGKILL
    first = the_record(on_head).trials[0]
    assert first.status == "succeeded" and first.adapter_uri
    files = {file: file.stat().st_mtime_ns for file in Path(first.adapter_uri).iterdir()}
    resumed = on_head.run("resume", the_record(on_head).sweep_id, "--json")
    result = whole(resumed)
    same_ends(result, undisturbed)
    assert result["best_trial"] == undisturbed["best_trial"]
    each_step_told_once(on_head, result)
    assert {file: file.stat().st_mtime_ns for file in Path(first.adapter_uri).iterdir()} == files
    assert "t000 begins" not in resumed.err and "t000 goes on" not in resumed.err
    assert "t003 begins" in resumed.err, "nothing was left to go on with"
    assert ray_head.census() == NOTHING


@pytest.mark.faults
def test_an_interrupted_sweep_says_how_to_go_on(command: Command, interrupted: Ended):
    assert interrupted.code == 130, interrupted.err
    assert f"raylora resume {the_record(command).sweep_id}" in interrupted.error
    assert interrupted.json["error"]["sweep_id"] == the_record(command).sweep_id
    assert "Traceback" not in interrupted.err
    assert interrupted.left_behind == ()


@pytest.mark.faults
def test_a_sweep_that_was_cut_off_twice_ends_like_one_undisturbed(
    finished: dict[str, Any], undisturbed: dict[str, Any]
):
    same_ends(finished, undisturbed)
    assert finished["best_trial"] == undisturbed["best_trial"]
    assert finished["tokens"] == undisturbed["tokens"]


@pytest.mark.faults
def test_it_went_on_from_its_saves_and_kept_its_runs(
    command: Command, killed: Ended, last: Ended, finished: dict[str, Any]
):
    each_step_told_once(command, finished)
    assert AGAIN_FROM_THE_BEGINNING not in killed.err + last.err


@pytest.mark.faults
def test_killed_workers_are_restarted_and_slots_go_on_from_their_saves(
    on_head: Command, ray_head: RayHead, undisturbed: dict[str, Any]
):
    ray_head.forget_workers()
    store = open_store(str(on_head.home / "store"))
    running = on_head.start("sweep", "grid.yaml", "--json")
    running.wait_for(UNDER_WAY)
    wait_until(lambda: num_saved(store, since=12) == 3, 60)
    kill_the_worker(ray_head)
    ended = running.end()
    same_ends(whole(ended), undisturbed)
    assert len(workers(ray_head)) == 2
    assert AGAIN_FROM_THE_BEGINNING not in ended.err


@pytest.mark.faults
def test_workers_that_die_for_good_fail_their_trials_with_the_reason(on_head: Command, ray_head: RayHead):
    ray_head.forget_workers()
    running = on_head.start("sweep", "grid.yaml", "--json", "--set", "distributed.max_failures=0")
    running.wait_for(UNDER_WAY)
    kill_the_worker(ray_head)
    ended = running.end()
    assert ended.code == 1, ended.err
    record = the_record(on_head)
    assert record.status == "failed"
    assert {trial.status for trial in record.trials} == {"failed"}
    assert sum("its process died" in str(trial.error) for trial in record.trials) == 3
    assert ray_head.census() == NOTHING
