"""Runs that fail half-way: one readable error, the rank it came from, and a checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.store.runs import RunRecord, list_runs, run_store
from tests.cluster.command import Command, Ended, Running, overrides
from tests.cluster.refused import said_in_one_line
from tests.cluster.undisturbed import assert_each_step_told_once, assert_trained_like, client
from tests.servers.ray import RayHead
from tests.unit.store.disks import fill, mounted

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

Kill = Callable[[Running, int, int], None]


@pytest.fixture
def kill_worker(ray_head: RayHead) -> Kill:
    """Kill the worker of a rank, once a step is done."""
    ray_head.forget_workers()

    def kill(running: Running, rank: int, step: int) -> None:
        running.wait_for(f"step {step}/")
        ray_head.worker(rank).kill()

    return kill


def the_record(store: Path) -> RunRecord:
    (record,) = list_runs(open_store(str(store)))
    return record


@pytest.mark.faults
def test_a_killed_worker_is_named(on_head: Command, kill_worker: Kill):
    running = on_head.start("train", "run.yaml", "--json")
    kill_worker(running, rank=1, step=10)
    ended = running.end()
    assert ended.code == 1
    assert ended.json["error"]["type"] == "WorkerError"
    assert said_in_one_line(ended).startswith("rank 1: its process died")
    assert the_record(on_head.home / "store").status == "failed"


def test_killed_workers_are_restarted_from_the_last_checkpoint(
    on_head: Command, kill_worker: Kill, whole_run: tuple[Command, Ended]
):
    """Either rank, one after the other."""
    running = on_head.start("train", "run.yaml", "--json", "--set", "distributed.max_failures=2")
    kill_worker(running, rank=1, step=10)
    kill_worker(running, rank=0, step=18)
    ended = running.end()
    assert_trained_like(ended, whole_run)
    assert ended.begun == [0, 8, 16]
    assert_each_step_told_once(on_head, ended)  # steps done twice, too


@pytest.mark.faults
def test_a_full_disk_loses_no_checkpoint(on_head: Command, tmp_path: Path):
    with mounted(tmp_path / "disk", 800_000) as disk:
        places = ("--set", f"storage.uri={disk}", "--set", "storage.keep_checkpoints=99", "--set", "save_steps=1")
        ended = on_head.run("train", "run.yaml", "--json", *places)
        error = said_in_one_line(ended)
        assert ended.code == 1
        assert ended.json["error"]["type"] == "UnusableStoreError"
        assert "the disk is full" in error
        assert str(disk) in error
        (run,) = (disk / "runs").iterdir()
        last = load_latest(run_store(open_store(str(disk)), run.name))
        assert last is not None
        assert f"step-{last.step + 1:08d}" in error


def kept_in(home: Path) -> list[str]:
    """Settings by which nothing but the cache and what MLflow does not have yet lies in raylora's own home."""
    return [
        f"storage.uri={home / 'store'}",
        f"tracking.uri=sqlite:///{home / 'mlflow.db'}",
        f"tracking.artifact_uri={(home / 'artifacts').as_uri()}",
    ]


@pytest.mark.faults
def test_a_full_cache_is_told_before_anything_is_trained(
    workplace: Path, ray_head: RayHead, new_home: Callable[[], Path], tmp_path: Path
):
    """Where there is room, the same command trains."""
    other = new_home()
    words = ("train", "run.yaml", "--json", *overrides("max_steps=4", "eval_steps=4", *kept_in(other)))
    with mounted(tmp_path / "disk", 64 << 20) as disk:
        command = Command(workplace, disk, ray_head.env)
        rest = fill(disk)
        refused = command.run(*words)
        error = said_in_one_line(refused)
        assert refused.code == 2
        assert str(disk) in error
        assert "Check the free space" in error
        assert list_runs(open_store(str(other / "store"))) == []
        rest.unlink()
        ended = command.run(*words)
        assert ended.code == 0, ended.err


@pytest.mark.faults
def test_a_full_home_loses_no_metric(workplace: Path, ray_head: RayHead, new_home: Callable[[], Path], tmp_path: Path):
    other = new_home()
    with mounted(tmp_path / "disk", 64 << 20) as disk:
        command = Command(workplace, disk, ray_head.env)
        running = command.start("train", "run.yaml", "--json", *overrides("max_steps=60", *kept_in(other)))
        running.wait_for("step 2/60")
        fill(disk)
        ended = running.end()
        assert ended.code == 0, ended.err
        assert not any((disk / "spool").iterdir()), "all of it was sent"
    assert "entries are kept in memory" in ended.err
    mlflow, run_id = client(Command(workplace, other)), ended.json["mlflow_run_id"]
    for name in ("train_loss", "grad_norm"):
        assert [point.step for point in mlflow.get_metric_history(run_id, name)] == list(range(1, 61))
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert "adapter" in {file.path for file in mlflow.list_artifacts(run_id)}
