"""Packed sweeps that are struck as runs are: each ends with the bits of the sweep that was left alone.

A rank that is stopped, an S3 that misbehaves, Ray Train's controller and then the whole cluster killed.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.command import Command, overrides, wait_until
from tests.cluster.made_sweeps import each_step_told_once, same_ends, the_record, undisturbed, whole
from tests.cluster.stopped import AGAIN_FROM_THE_BEGINNING, NOTHING, check_as_before, wait_for_saves
from tests.servers.fault_proxy import Fault, fault_proxy
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]


def test_a_sweep_outlives_a_stopped_rank_and_a_bad_s3(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server, undisturbed: dict[str, Any]
):
    """What Tune keeps goes through Arrow's client, all else through ours; saves are read in answers cut short."""
    ray_head.forget_workers()
    before, store = ray_head.in_use(), s3_server.uri("struck")
    with fault_proxy(s3_server.endpoint) as proxy:
        faults = [
            proxy.strike(fault)
            for fault in (
                Fault("busy", "PUT", "state.safetensors", times=3),
                Fault("reset", "PUT", "state.json", times=2),
                Fault("lost answer", "PUT", "manifest.json", times=2),
                Fault("stall", "PUT", "adapter_model.safetensors", seconds=2),
                Fault("busy", "PUT", "sweep.json", times=2),
                Fault("busy", "PUT", "/tune/", times=5),
                Fault("reset", "PUT", "/tune/"),
                Fault("cut answer", "GET", "state.safetensors", times=2),
            )
        ]
        env = {**on_head.env, **s3_server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        command = Command(on_head.folder, on_head.home, env)
        settings = overrides(f"storage.uri={store}", "distributed.worker_timeout_s=10")
        running = command.start("sweep", "grid.yaml", "--json", *settings)
        wait_for_saves(running, store)
        stopped = ray_head.worker(rank=0)
        stopped.suspend()
        ended = running.end()
    same_ends(whole(ended), undisturbed)
    each_step_told_once(on_head, whole(ended))
    assert all(fault.struck for fault in faults)
    assert not stopped.is_running(), "the stopped process is gone"
    assert AGAIN_FROM_THE_BEGINNING not in ended.err
    check_as_before(ray_head, before, ended)


def test_a_sweep_outlives_its_controller_and_its_cluster(
    workplace: Path, on_head: Command, undisturbed: dict[str, Any], tmp_path: Path
):
    """Ray Train's controller alone is killed; the sweep is resumed, and the head killed; another cluster ends it."""
    doomed = RayHead(tmp_path)
    doomed.start()
    try:
        command = Command(workplace, on_head.home, doomed.env)
        running = command.start("sweep", "grid.yaml", "--json")
        wait_for_saves(running, str(on_head.home / "store"))
        (controller,) = doomed.processes_of("TrainController")
        controller.kill()
        cut_off = running.end()
        assert cut_off.code == 1, cut_off.err
        assert cut_off.left_behind == ()
        assert "Ray Train gave up" in cut_off.error and "`raylora resume` goes on with the sweep" in cut_off.error
        wait_until(lambda: doomed.census() == NOTHING, 60)
        record = the_record(on_head)
        assert record.status == "failed"
        assert [trial.status for trial in record.trials].count("failed") == 1, "the one whose loss is not finite"
        running = command.start("resume", record.sweep_id, "--json")
        running.wait_for("training")
        doomed.stop(signal.SIGKILL)
        lost = running.end()
    finally:
        doomed.stop()
    assert lost.code not in (0, 2), lost.err
    assert lost.left_behind == ()
    ended = on_head.run("resume", record.sweep_id, "--json")
    same_ends(whole(ended), undisturbed)
    each_step_told_once(on_head, whole(ended))
