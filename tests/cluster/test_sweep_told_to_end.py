"""Packed sweeps that schedulers end by SIGTERM, alone or as a job of Ray's: saved as by Ctrl-C, resumed to the bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.command import LONG_S, Command, wait_until
from tests.cluster.made_sweeps import each_step_told_once, same_ends, the_record, undisturbed, whole
from tests.cluster.ray_jobs import Job, job_head
from tests.cluster.stopped import AGAIN_FROM_THE_BEGINNING, NOTHING, UNDER_WAY, check_as_before
from tests.servers.ray import RayHead

__all__ = ["job_head", "undisturbed"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]


def check_saved(command: Command) -> str:
    """Assert that the only sweep was saved for later in the midst of its trials; returns its name."""
    record = the_record(command)
    assert record.status == "interrupted"
    failed = [trial.trial_id for trial in record.trials if trial.error]
    assert failed == ["t001"], "the one whose loss is not finite"
    assert not any(trial.adapter_uri for trial in record.trials), "none had come to its end"
    return record.sweep_id


def check_goes_on(command: Command, sweep_id: str, undisturbed: dict[str, Any]) -> None:
    """Assert that the sweep goes on from where it was to the end of the one left alone."""
    ended = command.run("resume", sweep_id, "--json")
    result = whole(ended)
    same_ends(result, undisturbed)
    assert result["tokens"] == undisturbed["tokens"]
    each_step_told_once(command, result)
    assert AGAIN_FROM_THE_BEGINNING not in ended.err


def test_a_sweep_ended_by_sigterm_goes_on(on_head: Command, ray_head: RayHead, undisturbed: dict[str, Any]):
    """No save is due before the end: what it goes on from is what the signal had saved."""
    before = ray_head.in_use()
    running = on_head.start("sweep", "grid.yaml", "--json", "--set", "save_steps=null")
    running.wait_for(UNDER_WAY)
    os.kill(running.process.pid, signal.SIGTERM)
    ended = running.end()
    assert ended.code == 130, ended.err
    sweep_id = check_saved(on_head)
    assert f"raylora resume {sweep_id}" in ended.error
    assert ended.json["error"]["sweep_id"] == sweep_id
    assert "Traceback" not in ended.err
    check_as_before(ray_head, before, ended)
    check_goes_on(on_head, sweep_id, undisturbed)


def test_a_sweep_whose_job_is_stopped_goes_on(
    job_head: RayHead, workplace: Path, new_home: Callable[[], Path], undisturbed: dict[str, Any]
):
    command = Command(workplace, new_home(), job_head.env)
    job = Job(job_head, command, "a-sweep", "sweep", "grid.yaml", "--json", "--set", "save_steps=null")
    wait_until(lambda: UNDER_WAY in job.said, LONG_S)
    job.stop()
    assert "Traceback" not in job.said
    sweep_id = check_saved(command)
    wait_until(lambda: job_head.census() == NOTHING, 60)
    check_goes_on(command, sweep_id, undisturbed)
