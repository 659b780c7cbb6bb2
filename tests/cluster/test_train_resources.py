"""A cluster of two nodes, of which one has what `distributed.resources_per_worker` asks for; ZeRO-2 runs there.

A sweep's plan counts them both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import SHORT, ended_as_alone
from tests.cluster.command import Command, overrides
from tests.cluster.made_sweeps import PLAN, in_workplace, only_group, whole
from tests.conftest import served
from tests.servers.process import Server
from tests.servers.ray import RayHead, ray_start
from tests.unit.train.tiny_run import write_pairs

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A node with room for both workers, and without what they ask for."""
    yield from served(RayHead(tmp_path_factory.mktemp("head")))


@pytest.fixture(scope="module", autouse=True)
def node_with_disk(head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node with room for four, two of them with what they ask for."""
    log = tmp_path_factory.mktemp("node") / "ray.log"
    words = ray_start(f"--address={head.address}", "--num-cpus=4", '--resources={"fast_disk": 2}')
    env = {**head.server_env, "NODE": "with a fast disk"}
    yield from served(Server(words, log, lambda: "Ray runtime started" in log.read_text(), env=env))


@pytest.fixture
def command(workplace: Path, head: RayHead, new_home: Callable[[], Path]) -> Command:
    return Command(workplace, new_home(), head.env)


def each_asks(amount: float) -> tuple[str, str]:
    return "--set", f"distributed.resources_per_worker={{fast_disk: {amount}}}"


def test_a_sweeps_plan_counts_the_nodes_and_what_they_have_free(workplace: Path, head: RayHead, tmp_path: Path):
    """They hold one and two workers of two cores; the plan starts nothing."""
    group = only_group(whole(Command(workplace, tmp_path, head.env).run(*PLAN)))
    assert group["num_packs"] == 3
    assert group["fits"] and 0 < group["bytes_per_worker"] < psutil.virtual_memory().total
    assert head.census() == {"actors": [], "groups": []}


def test_workers_run_where_it_is(head: RayHead, in_workplace: Path, new_home: Callable[[], Path], tmp_path: Path):
    """The configuration's `ray.address` comes before the shell's RAY_ADDRESS, where nothing answers.

    What the workers learn from here is pairs of answers.
    """
    command = Command(in_workplace, new_home(), {**head.env, "RAY_ADDRESS": "127.0.0.1:1"})
    write_pairs(in_workplace / "pairs.jsonl", 40)
    pairs = ["rl=dpo", "datasets=[{path: pairs.jsonl, type: preference}]"]
    zero2 = ["distributed.strategy=deepspeed", "distributed.zero_stage=2", *pairs, *SHORT]
    place = overrides(f"ray.address={head.address}")
    ended = command.run("train", "run.yaml", "--json", *overrides(*zero2), *place, *each_asks(1))
    assert ended.code == 0, ended.err
    ended_as_alone(ended.json, load_spec(in_workplace / "run.yaml", zero2).spec, tmp_path)
    assert [env.get("NODE") for env in head.seen_by_workers().values()] == ["with a fast disk"] * 2


def test_more_of_it_than_there_is(command: Command, head: RayHead):
    head.forget_workers()
    ended = command.run("train", "run.yaml", "--json", *each_asks(1.5), timeout_s=240)
    assert ended.code == 2, ended.err
    assert "2 workers of {'CPU': 1.0, 'fast_disk': 1.5} asked, the cluster's 2 node(s) can hold 1" in ended.error
    assert "lower num_workers, cpus_per_worker or resources_per_worker" in ended.error
    assert "waiting" not in ended.err
    assert head.seen_by_workers() == {}
