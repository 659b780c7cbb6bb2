"""`raylora sweep --plan`: for this machine or for a cluster that is there; it starts nothing, and leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.command import Command
from tests.cluster.made_sweeps import whole
from tests.conftest import served
from tests.servers.process import Server
from tests.servers.ray import RayHead, ray_start

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

WORDS = ("sweep", "grid.yaml", "--plan", "--json", "--set", "slots=1", "--set", "budget.steps=2")
"""Four trials; a pack is one worker of two cores."""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    yield from served(RayHead(tmp_path_factory.mktemp("head"), num_cpus=2))


@pytest.fixture(scope="module")
def two_nodes(head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A cluster of two nodes, which hold one and two workers of two cores."""
    log = tmp_path_factory.mktemp("second") / "ray.log"
    command = ray_start(f"--address={head.address}", "--num-cpus=4")
    second = Server(command, log, lambda: "Ray runtime started" in log.read_text(), env=head.own_env())
    for _ in served(second):
        yield head


def only_group(plan: dict[str, Any]) -> dict[str, Any]:
    (group,) = plan["groups"]
    return group


def test_a_plan_for_this_machine_starts_no_ray(workplace: Path, tmp_path: Path):
    ended = Command(workplace, tmp_path).run(*WORDS)
    group = only_group(whole(ended))
    assert group["num_packs"] == max(1, min(4, len(psutil.Process().cpu_affinity() or ()) // 2))
    assert group["fits"] and 0 < group["bytes_per_worker"] < psutil.virtual_memory().total
    assert ended.left_behind == () and "Ray" not in ended.err


def test_a_plan_for_a_cluster_counts_its_nodes_and_what_they_have_free(
    workplace: Path, two_nodes: RayHead, tmp_path: Path
):
    ended = Command(workplace, tmp_path, two_nodes.env).run(*WORDS)
    group = only_group(whole(ended))
    assert group["num_packs"] == 3
    assert group["fits"] and 0 < group["bytes_per_worker"] < psutil.virtual_memory().total
    assert two_nodes.census() == {"actors": [], "groups": []}
