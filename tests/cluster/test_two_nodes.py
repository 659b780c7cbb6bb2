"""The job of `clusters/` and a sweep on two Ray nodes with addresses and disks of their own, one worker on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml

from raylora.store.blob import open_store
from raylora.store.manifest import fetch
from raylora.store.sweeps import list_sweeps
from tests.cluster.command import Command, Ended, overrides
from tests.cluster.conftest import RUN
from tests.cluster.made_sweeps import same_curves, the_record, whole
from tests.conftest import served
from tests.servers.host import Host, private, two_hosts
from tests.servers.process import Server
from tests.servers.ray import RayHead, ray_start

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RAYJOB = Path(__file__).resolve().parents[2] / "clusters" / "kuberay-rayjob.yaml"


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same path on both hosts, with a disk of its own on the second: caches are not shared."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def head(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    yield from served(RayHead(tmp_path_factory.mktemp("head"), num_cpus=1, host=hosts[0]))


@pytest.fixture(scope="module")
def second_node(
    hosts: tuple[Host, Host], head: RayHead, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    words = ray_start(f"--address={head.address}", f"--node-ip-address={hosts[1].address}", "--num-cpus=1")
    log = tmp_path_factory.mktemp("second") / "ray.log"
    command = [*hosts[1].door, *private([home, head.session], words)]
    yield from served(Server(command, log, lambda: "Ray runtime started" in log.read_text(), env=head.server_env))


@pytest.fixture(scope="module")
def result(hosts: tuple[Host, Host], head: RayHead, second_node: Server, workplace: Path, home: Path) -> dict[str, Any]:
    del second_node
    (job,) = (part for part in yaml.safe_load_all(RAYJOB.read_text()) if part["kind"] == "RayJob")
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "raylora"
    words = [str(workplace / "run.yaml") if word.endswith(".yaml") else word for word in words]
    shared = workplace / "shared"
    ended: Ended = Command(workplace, home, head.env, door=hosts[0].door).run(
        *words, "--set", f"storage.uri={shared}", "--set", "distributed.max_failures=0"
    )
    assert ended.code == 0, ended.err
    return ended.json


def assert_one_worker_each(head: RayHead) -> None:
    seen = sorted((env["RANK"], env["NODE_RANK"], env["LOCAL_WORLD_SIZE"]) for env in head.seen_by_workers().values())
    assert seen == [("0", "0", "1"), ("1", "1", "1")]


def test_each_node_had_one_worker(result: dict[str, Any], head: RayHead):
    del result
    assert_one_worker_each(head)


def test_the_base_is_sharded_over_the_nodes(result: dict[str, Any], whole_run: tuple[Command, Ended]):
    assert (result["strategy"], result["num_workers"]) == ("fsdp", 2)
    assert result["base_bytes_per_rank"] == whole_run[1].json["base_bytes_per_rank"]


def test_two_nodes_train_what_one_trains(result: dict[str, Any], whole_run: tuple[Command, Ended], tmp_path: Path):
    whole = whole_run[1].json
    assert result["steps"] == RUN["max_steps"]
    assert result["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-5)
    folder, _, prefix = result["adapter_uri"].rpartition("/")
    fetch(open_store(folder), prefix, tmp_path)
    name = "adapter_model.safetensors"
    mine = safetensors.torch.load_file(tmp_path / name)
    theirs = safetensors.torch.load_file(Path(whole["adapter_uri"]) / name)
    assert mine.keys() == theirs.keys()
    for key, tensor in mine.items():
        assert (tensor - theirs[key]).abs().max() < 1e-4, key


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
