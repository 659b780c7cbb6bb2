"""Packed sweeps whose saves are struck: S3 gone for a while, a worker killed in the midst of one, the newest damaged.

Each ends with the bits of the sweep that was left alone.
"""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from raylora.store.blob import open_store
from raylora.store.checkpoint import TENSORS
from raylora.store.kept import complete_steps
from raylora.store.manifest import MANIFEST
from raylora.store.runs import run_store
from tests.cluster.command import LONG_S, Command, overrides
from tests.cluster.damage import DAMAGES
from tests.cluster.made_sweeps import each_step_told_once, same_ends, the_record, undisturbed, whole
from tests.cluster.stopped import AGAIN_FROM_THE_BEGINNING, check_as_before, wait_for_saves, workers
from tests.servers.fault_proxy import Fault, fault_proxy
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

GONE_S = 6.0
"""After it was missed, for which S3 stays away."""


def test_a_sweep_outlives_an_s3_that_is_killed_and_comes_back(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server, undisturbed: dict[str, Any]
):
    ray_head.forget_workers()
    before, store = ray_head.in_use(), s3_server.uri("restarted-under-a-sweep")
    command = Command(on_head.folder, on_head.home, {**on_head.env, **s3_server.env})
    running = command.start("sweep", "grid.yaml", "--json", *overrides(f"storage.uri={store}"))
    wait_for_saves(running, store)
    s3_server.stop(signal.SIGKILL)
    try:
        running.wait_for("trying again in")
        time.sleep(GONE_S)
        assert running.process.poll() is None
    finally:
        s3_server.start()
    ended = running.end()
    same_ends(whole(ended), undisturbed)
    each_step_told_once(on_head, whole(ended))
    assert len(workers(ray_head)) == 1, "nobody had to begin again"
    check_as_before(ray_head, before, ended)


def test_a_sweep_outlives_workers_killed_while_a_save_is_on_its_way(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server, undisturbed: dict[str, Any]
):
    """One trial's tensors are not there yet; then, of a later save, only the manifest. The others' saves are whole."""
    ray_head.forget_workers()
    before, store = ray_head.in_use(), s3_server.uri("killed-while-a-sweep-saves")
    strikes = (f"step-00000008/{TENSORS}", f"step-00000016/{MANIFEST}")
    settings = overrides(f"storage.uri={store}", f"distributed.max_failures={len(strikes)}")
    with fault_proxy(s3_server.endpoint) as proxy:
        faults = [proxy.strike(Fault("hold", "PUT", strike)) for strike in strikes]
        env = {**on_head.env, **s3_server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        running = Command(on_head.folder, on_head.home, env).start("sweep", "grid.yaml", "--json", *settings)
        for fault in faults:
            assert fault.met.wait(LONG_S), running.said
            ray_head.worker(rank=0).kill()
        ended = running.end()
    same_ends(whole(ended), undisturbed)
    each_step_told_once(on_head, whole(ended))
    assert len(workers(ray_head)) == len(strikes) + 1
    assert AGAIN_FROM_THE_BEGINNING not in ended.err
    check_as_before(ray_head, before, ended)


def test_a_sweep_whose_newest_saves_are_damaged_goes_on_from_those_before(
    on_head: Command, undisturbed: dict[str, Any]
):
    """Each trial's in another way, after Ctrl-C, with which Ray Tune noted the newest."""
    store = open_store(str(on_head.home / "store"))
    running = on_head.start("sweep", "grid.yaml", "--json")
    wait_for_saves(running, store.uri)
    running.interrupt()
    assert running.end().code == 130
    record = the_record(on_head)
    told = []
    ways = ("truncated", "a bit flipped", "manifest missing")
    for trial, way in zip([each for each in record.trials if each.error is None], ways, strict=True):
        own = run_store(store, str(trial.run_id))
        *_, earlier, newest = complete_steps(own)
        DAMAGES[way](own, newest)
        told.append(
            f"{trial.run_id}/checkpoints/step-{newest:08d} is gone or corrupt; its run goes on from step {earlier}"
        )
        if way != "manifest missing":
            told.append(f"CHECKPOINT AT STEP {newest} IS CORRUPT")
    ended = on_head.run("resume", record.sweep_id, "--json")
    assert [each for each in told if each not in ended.err] == []
    same_ends(whole(ended), undisturbed)
    each_step_told_once(on_head, whole(ended))
