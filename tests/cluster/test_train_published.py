"""A run that is cut off when nothing but its adapter is missing: it is published once, and whole."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from raylora.model.export import FOLDER
from raylora.store.blob import open_store
from raylora.store.contract import Store
from raylora.store.manifest import MANIFEST, WRITER, fetch
from raylora.store.runs import list_runs, run_store
from tests.cluster.command import LONG_S, Command, Ended, overrides, wait_until
from tests.cluster.conftest import RUN
from tests.cluster.undisturbed import ADAPTER, assert_each_step_told_once, assert_trained_like, client
from tests.servers.fault_proxy import Fault, fault_proxy
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]


def test_an_adapter_cut_off_on_its_way_is_published_once_and_whole(
    on_head: Command,
    ray_head: RayHead,
    s3_server: S3Server,
    s3_env: S3Server,
    whole_run: tuple[Command, Ended],
    tmp_path: Path,
):
    """The worker is killed that writes the tensors; then, when only the manifest is missing, the driver."""
    ray_head.forget_workers()
    store, env = open_store(s3_server.uri("cut-off-while-publishing")), {**on_head.env, **s3_server.env}
    with fault_proxy(s3_server.endpoint) as proxy:
        tensors, manifest = (proxy.strike(Fault("hold", "PUT", f"/{FOLDER}/{name}")) for name in (ADAPTER, MANIFEST))
        command = Command(on_head.folder, on_head.home, {**env, "AWS_ENDPOINT_URL": proxy.endpoint})
        settings = overrides(f"storage.uri={store.uri}", "distributed.max_failures=1")
        running = command.start("train", "run.yaml", "--json", *settings)
        assert tensors.met.wait(LONG_S), running.said
        ray_head.worker(rank=0).kill()
        assert manifest.met.wait(LONG_S), running.said
        os.kill(running.process.pid, signal.SIGKILL)
        cut_off = running.end()
        wait_until(lambda: not ray_head.workers(), 60)
    assert cut_off.code == -signal.SIGKILL
    assert cut_off.begun == [0, RUN["max_steps"]]
    (record,) = list_runs(store)
    assert record.status == "running" and record.result is None
    own = run_store(store, record.run_id)
    assert own.exists(f"{FOLDER}/{ADAPTER}") and not own.exists(f"{FOLDER}/{MANIFEST}")
    command = Command(on_head.folder, on_head.home, env)
    resume = ("resume", record.run_id, "--store", store.uri, "--json")
    ended = command.run(*resume)
    assert_trained_like(ended, whole_run)
    assert ended.begun == [RUN["max_steps"]], "no step was done again"
    assert_each_step_told_once(on_head, ended)
    check_published(on_head, own, ended, tmp_path)
    published = versions(own)
    assert command.run(*resume).json == ended.json
    assert versions(own) == published, "a run that has finished publishes nothing again"


def check_published(command: Command, own: Store, ended: Ended, folder: Path) -> None:
    """Assert that the files of the adapter are those of its manifest, and that MLflow has the same, once."""
    names = {*fetch(own, FOLDER, folder / "stored").files}
    assert {key.removeprefix(f"{FOLDER}/") for key in own.keys(FOLDER)} == {*names, MANIFEST, WRITER}
    mlflow, run_id = client(command), ended.json["mlflow_run_id"]
    assert [file.path for file in mlflow.list_artifacts(run_id)].count(FOLDER) == 1
    sent = Path(mlflow.download_artifacts(run_id, FOLDER, str(folder)))
    assert (sent / ADAPTER).read_bytes() == (folder / "stored" / ADAPTER).read_bytes()


def versions(own: Store) -> dict[str, str]:
    return {key: own.version(key) for key in own.keys(FOLDER)}
