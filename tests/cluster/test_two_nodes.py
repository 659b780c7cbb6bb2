"""The RayJob of `clusters/` and a sweep on two Ray nodes with addresses and disks of their own, one worker on each."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylora.spec.reading.load import load_spec
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.sweeps import list_sweeps
from tests.cluster.alone import came_to, in_one_process, loss_alone, trained_alone
from tests.cluster.command import Command, Ended, overrides
from tests.cluster.made_sweeps import same_curves, the_record, whole
from tests.cluster.ray_jobs import submit
from tests.conftest import served
from tests.servers.host import Host, private, two_hosts
from tests.servers.process import Server
from tests.servers.ray import RayHead, ray_start
from tests.unit.train.tiny_run import build_tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RAYJOB = Path(__file__).resolve().parents[2] / "clusters" / "kuberay-rayjob.yaml"
MOUNTED = Path("/configs/run.yaml")
"""Where its entrypoint reads the run, which is elsewhere here."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same path on both hosts, with a disk of its own on the second: caches are not shared."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def head(hosts: tuple[Host, Host], home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """Its jobs find `raylora` as in an image, and its home."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    env = {"PATH": path, "RAYLORA_HOME": str(home)}
    folder = tmp_path_factory.mktemp("head")
    yield from served(RayHead(folder, num_cpus=1, host=hosts[0], env=env, takes_jobs=True))


@pytest.fixture(scope="module")
def second_node(
    hosts: tuple[Host, Host], head: RayHead, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    words = ray_start(f"--address={head.address}", f"--node-ip-address={hosts[1].address}", "--num-cpus=1")
    log = tmp_path_factory.mktemp("second") / "ray.log"
    command = [*hosts[1].door, *private([home, head.session], words)]
    yield from served(Server(command, log, lambda: "Ray runtime started" in log.read_text(), env=head.server_env))


@pytest.fixture(scope="module")
def settings(workplace: Path) -> list[str]:
    """What this machine has in place of buckets, GPUs and a base of the hub, which the run of `clusters/` asks for."""
    places = (f"base_model={workplace / 'base'}", f"datasets.0.path={workplace / 'rows.jsonl'}", "sequence_len=128")
    workers = ("distributed.gpus_per_worker=0", "distributed.cpus_per_worker=1", "distributed.max_failures=0")
    return [*places, *workers, "dtype=float32", f"storage.uri={workplace / 'shared'}"]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that Kubernetes mounts for the RayJob, word for word."""
    file = tmp_path_factory.mktemp("configs") / MOUNTED.name
    file.write_text(document("ConfigMap")["data"][MOUNTED.name])
    return file


@pytest.fixture(scope="module")
def result(head: RayHead, second_node: Server, run_file: Path, settings: list[str]) -> dict[str, Any]:
    """What the log of the RayJob ends with, whose entrypoint is submitted as KubeRay does it."""
    del second_node
    entrypoint = document("RayJob")["spec"]["entrypoint"].split()
    words = [str(run_file) if word == str(MOUNTED) else word for word in entrypoint]
    assert str(run_file) in words
    log = submit(head, "raylora-train", [*words, *overrides(*settings)])
    ended: dict[str, Any] = json.loads(log.splitlines()[-1])
    return ended


@pytest.fixture(scope="module")
def spec(run_file: Path, settings: list[str]) -> RunSpec:
    return load_spec(run_file, settings).spec


def document(kind: str) -> dict[str, Any]:
    """One of those that the file for KubeRay holds."""
    (found,) = (each for each in yaml.safe_load_all(RAYJOB.read_text()) if each["kind"] == kind)
    return found


def assert_one_worker_each(head: RayHead) -> None:
    seen = sorted((env["RANK"], env["NODE_RANK"], env["LOCAL_WORLD_SIZE"]) for env in head.seen_by_workers().values())
    assert seen == [("0", "0", "1"), ("1", "1", "1")]


def test_each_node_had_one_worker(result: dict[str, Any], head: RayHead):
    del result
    assert_one_worker_each(head)


def test_each_node_holds_half_of_the_base(result: dict[str, Any], spec: RunSpec):
    assert (result["strategy"], result["num_workers"]) == ("fsdp", 2)
    assert result["base_bytes_per_rank"] == [build_tiny(in_one_process(spec)).held_base_bytes / 2] * 2


def test_two_nodes_train_what_one_process_does(result: dict[str, Any], spec: RunSpec, tmp_path: Path):
    came_to(trained_alone(spec, tmp_path), result, apart=1e-5)
    assert loss_alone(spec, result["adapter_uri"], tmp_path) == pytest.approx(result["eval_loss"], abs=1e-5)


def test_a_sweep_has_a_worker_of_its_pack_on_each_node(
    hosts: tuple[Host, Host],
    head: RayHead,
    second_node: Server,
    whole_asha: tuple[Command, Ended],
    workplace: Path,
    home: Path,
):
    del second_node
    head.forget_workers()
    command = Command(workplace, home, head.env, door=hosts[0].door)
    changes = (f"storage.uri={workplace / 'shared'}", "scheduler=fifo", "num_trials=2")
    result = whole(command.run("sweep", "asha.yaml", "--json", *overrides(*changes)))
    assert_one_worker_each(head)
    assert [(trial["status"], trial["steps"]) for trial in result["trials"]] == [("succeeded", 8)] * 2
    (record,) = list_sweeps(open_store(str(workplace / "shared")))
    same_curves(record, the_record(whole_asha[0]))
