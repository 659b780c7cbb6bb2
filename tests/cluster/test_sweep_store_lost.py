"""Packed sweeps whose storage takes no more, half-way: a key that expires, a disk that is full.

They end, fail no trial for it, and say what to do; `raylora resume` brings them to the bits of the sweep that was left
alone. A full home, with the storage elsewhere, ends nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylora.store.blob import open_store
from raylora.store.sweeps import read_sweep
from tests.cluster.command import LONG_S, Command, Ended, overrides, wait_until
from tests.cluster.made_sweeps import each_step_told_once, same_ends, undisturbed, whole
from tests.cluster.stopped import UNDER_WAY, check_as_before, wait_for_saves
from tests.servers.fault_proxy import Fault, fault_proxy
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server
from tests.unit.store.disks import fill, mounted

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]


def check_gave_up(ended: Ended, store: str, why: str) -> str:
    """Assert that the sweep ended for its storage, with no trial failed for it; returns its name."""
    assert ended.code == 1, ended.err
    error = ended.json["error"]
    assert error["type"] == "UnusableStoreError", error
    assert why in error["message"] and "`raylora resume` goes on with the sweep" in error["message"]
    assert "Traceback" not in ended.err
    failed = [trial.trial_id for trial in read_sweep(open_store(store), error["sweep_id"]).trials if trial.error]
    assert failed == ["t001"], "the one whose loss is not finite"
    return str(error["sweep_id"])


def test_a_sweep_whose_key_expires_goes_on_with_another(
    on_head: Command, ray_head: RayHead, s3_server: S3Server, s3_env: S3Server, undisturbed: dict[str, Any]
):
    """Whatever is asked of S3, by workers, by the driver, and by Ray Tune through Arrow, is refused."""
    before, store = ray_head.in_use(), s3_server.uri("expired-sweep")
    env = {**on_head.env, **s3_server.env}
    with fault_proxy(s3_server.endpoint) as proxy:
        command = Command(on_head.folder, on_head.home, {**env, "AWS_ENDPOINT_URL": proxy.endpoint})
        running = command.start("sweep", "grid.yaml", "--json", *overrides(f"storage.uri={store}"))
        wait_for_saves(running, store)
        for method in ("PUT", "GET", "HEAD", "POST", "DELETE"):
            proxy.strike(Fault("expired", method, "", times=10**6))
        ended = running.end()
    sweep_id = check_gave_up(ended, store, "refuses the credentials (")  # of HEAD nobody hears why
    check_as_before(ray_head, before, ended)
    with_another = Command(on_head.folder, on_head.home, env)
    result = whole(with_another.run("resume", sweep_id, "--store", store, "--json"))
    same_ends(result, undisturbed)
    each_step_told_once(on_head, result)


def test_a_sweep_whose_disk_is_full_goes_on_when_there_is_room(
    on_head: Command, ray_head: RayHead, undisturbed: dict[str, Any], tmp_path: Path
):
    before = ray_head.in_use()
    with mounted(tmp_path / "disk", 64 << 20) as disk:
        running = on_head.start("sweep", "grid.yaml", "--json", *overrides(f"storage.uri={disk}"))
        wait_for_saves(running, str(disk))

        def is_over() -> bool:
            fill(disk)  # with what older checkpoints leave, too
            return running.process.poll() is not None

        wait_until(is_over, LONG_S)
        ended = running.end()
        sweep_id = check_gave_up(ended, str(disk), "No space left on device")
        check_as_before(ray_head, before, ended)
        (disk / "rest").unlink()
        result = whole(on_head.run("resume", sweep_id, "--store", str(disk), "--json"))
        same_ends(result, undisturbed)
    each_step_told_once(on_head, result)


def test_a_sweep_whose_home_is_full_loses_no_metric(
    workplace: Path, ray_head: RayHead, new_home: Callable[[], Path], undisturbed: dict[str, Any], tmp_path: Path
):
    before, other = ray_head.in_use(), new_home()
    places = [
        f"storage.uri={other / 'store'}",
        f"tracking.uri=sqlite:///{other / 'mlflow.db'}",
        f"tracking.artifact_uri={(other / 'artifacts').as_uri()}",
    ]
    with mounted(tmp_path / "disk", 64 << 20) as disk:
        running = Command(workplace, disk, ray_head.env).start("sweep", "grid.yaml", "--json", *overrides(*places))
        running.wait_for(UNDER_WAY)
        fill(disk)
        ended = running.end()
        result = whole(ended)
        assert not any((disk / "spool").iterdir()), "all of it was sent"
    assert "entries are kept in memory" in ended.err
    same_ends(result, undisturbed)
    each_step_told_once(Command(workplace, other), result)
    check_as_before(ray_head, before, ended)
