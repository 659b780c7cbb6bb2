"""A run that is told to stop, twice over, and goes on each time: the adapter is that of a run never stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylora.spec.reading.load import load_spec
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.store.runs import RunRecord, read_run, run_store
from tests.cluster.alone import came_to, told_of, trained_alone
from tests.cluster.command import Command, Ended
from tests.cluster.conftest import RUN
from tests.cluster.made_sweeps import in_workplace
from tests.cluster.undisturbed import client
from tests.servers.ray import RayHead

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def command(workplace: Path, ray_head: RayHead, new_home: Callable[[], Path]) -> Command:
    return Command(workplace, new_home(), ray_head.env)


@pytest.fixture(scope="module")
def interrupted(command: Command) -> Ended:
    """Ctrl-C at a terminal, which reaches every process."""
    running = command.start("train", "run.yaml", "--json")
    running.wait_for("step 2/")
    running.interrupt()
    return running.end()


@pytest.fixture(scope="module")
def run_id(command: Command, interrupted: Ended) -> str:
    assert interrupted.code == 130, interrupted.err
    return the_record(command).run_id


@pytest.fixture(scope="module")
def terminated(command: Command, run_id: str) -> Ended:
    """SIGTERM to the command, as schedulers send it."""
    running = command.start("resume", run_id, "--json")
    running.wait_for("step 1")  # beyond the first ten steps
    os.kill(running.process.pid, signal.SIGTERM)
    return running.end()


@pytest.fixture(scope="module")
def finished(command: Command, run_id: str, terminated: Ended) -> dict[str, Any]:
    assert terminated.code == 130, terminated.err
    ended = command.run("resume", run_id, "--json")
    assert ended.code == 0, ended.err
    return ended.json


def test_a_finished_run_answers_with_its_result(command: Command, finished: dict[str, Any], run_id: str):
    assert finished["resume_command"] == f"raylora resume {run_id}"
    again = command.run("resume", run_id, "--json")
    assert again.json == finished
    assert "finished at" in again.err


def the_record(command: Command) -> RunRecord:
    store = open_store(str(command.home / "store"))
    (folder,) = (command.home / "store" / "runs").iterdir()
    return read_run(store, folder.name)


def test_an_interrupted_run_says_how_to_go_on(interrupted: Ended, run_id: str):
    assert f"raylora resume {run_id}" in interrupted.error
    assert "Traceback" not in interrupted.err


def test_each_stop_leaves_a_checkpoint_of_its_step(interrupted: Ended, terminated: Ended, run_id: str):
    first, second = (int(ended.error.split("step-")[1].split(";")[0]) for ended in (interrupted, terminated))
    assert 2 <= first < second < RUN["max_steps"]


def test_a_resumed_run_ends_like_one_never_stopped(finished: dict[str, Any], whole_run: tuple[Command, Ended]):
    whole = whole_run[1].json
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (Path(finished["adapter_uri"]) / name).read_bytes() == (Path(whole["adapter_uri"]) / name).read_bytes()
    same = ("eval_loss_before", "eval_loss", "train_loss", "tokens", "steps", "samples")
    assert {name: finished[name] for name in same} == {name: whole[name] for name in same}


def test_a_resumed_run_stays_one_run(command: Command, run_id: str, finished: dict[str, Any]):
    mlflow = client(command)
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("raylora").experiment_id])
    assert finished["run_id"] == run_id
    assert finished["mlflow_run_id"] == run.info.run_id
    assert run.info.status == "FINISHED"
    steps = [point.step for point in mlflow.get_metric_history(run.info.run_id, "train_loss")]
    assert steps == list(range(1, RUN["max_steps"] + 1))
    assert the_record(command).status == "finished"


def test_the_picture_shows_the_whole_run(
    command: Command, finished: dict[str, Any], whole_run: tuple[Command, Ended], tmp_path: Path
):
    whole_command, whole = whole_run
    pictures = []
    for one, run_id in ((command, finished["mlflow_run_id"]), (whole_command, whole.json["mlflow_run_id"])):
        copy = Path(client(one).download_artifacts(run_id, "loss.png", str(tmp_path)))
        pictures.append(copy.read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.faults
def test_a_second_interrupt_ends_at_once_and_fewer_workers_go_on(on_head: Command, in_workplace: Path, tmp_path: Path):
    """One worker computes what two do to the rounding of sums."""
    running = on_head.start("train", "run.yaml", "--json")
    running.wait_for("step 9/")  # beyond the checkpoint of step 8
    running.interrupt()
    running.wait_for("saving a checkpoint")
    running.interrupt()
    ended = running.end(60)
    record = the_record(on_head)
    assert (ended.code, record.status) == (130, "interrupted")
    assert f"raylora resume {record.run_id}" in ended.error
    assert ended.left_behind == ()
    last = load_latest(run_store(open_store(str(on_head.home / "store")), record.run_id))
    assert last is not None
    assert last.step >= 8
    resumed = on_head.run("resume", record.run_id, "--json", "--set", "distributed.num_workers=1")
    assert resumed.code == 0, resumed.err
    assert resumed.begun[0] >= last.step
    result = resumed.json
    assert result["num_workers"] == len(result["base_bytes_per_rank"]) == 1
    alone = trained_alone(load_spec(in_workplace / "run.yaml").spec, tmp_path)
    came_to(alone, result)
    # Who is told to end at once tells no more of what its workers had done.
    told_of(alone, client(on_head), result["mlflow_run_id"], since=resumed.begun[0])
