"""A run that goes on under another strategy and with other workers, twice, all by the command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import came_to, told_of, trained_alone
from tests.cluster.command import Command, Running, overrides
from tests.cluster.made_sweeps import in_workplace
from tests.cluster.undisturbed import client
from tests.servers.ray import RayHead

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

NUM_STEPS = 60
SETTINGS = (f"max_steps={NUM_STEPS}", f"eval_steps={NUM_STEPS}", "distributed.num_workers=1")
DDP = ("distributed.strategy=ddp", "distributed.num_workers=2")
ZERO3 = ("distributed.strategy=deepspeed", "distributed.zero_stage=3", "distributed.num_workers=2")


def stopped_after(running: Running, step: int) -> int:
    """The step at which a run was saved that was interrupted after one."""
    running.wait_for(f"step {step}/")
    running.interrupt()
    ended = running.end()
    assert ended.code == 130, ended.err
    saved = re.search(r"step-(\d+)", ended.error)
    assert saved is not None
    assert step <= int(saved[1]) < NUM_STEPS
    return int(saved[1])


def test_a_run_goes_from_fsdp_to_ddp_to_zero3_and_from_one_worker_to_two(
    on_head: Command, ray_head: RayHead, in_workplace: Path, tmp_path: Path
):
    """Held against one process, step by step, that was never stopped."""
    ray_head.forget_workers()
    first = stopped_after(on_head.start("train", "run.yaml", "--json", *overrides(*SETTINGS)), 3)
    (run,) = on_head.run("runs", "--json").json["runs"]
    resume = ("resume", run["run_id"], "--json")
    second = stopped_after(on_head.start(*resume, *overrides(*DDP)), first + 3)
    (run,) = on_head.run("runs", "--json").json["runs"]
    assert (run["spec"]["distributed"]["strategy"], run["spec"]["distributed"]["num_workers"]) == ("ddp", 2)
    ended = on_head.run(*resume, *overrides(*ZERO3))
    assert ended.code == 0, ended.err
    assert ended.begun == [second]
    assert (ended.json["strategy"], ended.json["num_workers"]) == ("zero3", 2)
    seen = [env["WORLD_SIZE"] for env in ray_head.seen_by_workers().values() if "RANK" in env]
    assert sorted(seen) == ["1", "2", "2", "2", "2"]
    alone = trained_alone(load_spec(in_workplace / "run.yaml", SETTINGS).spec, tmp_path)
    came_to(alone, ended.json)
    told_of(alone, client(on_head), ended.json["mlflow_run_id"])
