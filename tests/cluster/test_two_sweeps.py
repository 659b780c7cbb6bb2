"""Two sweeps at once whose packs are gangs, on a cluster with room for one of them and a half, at first for none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.command import Command, wait_until
from tests.cluster.conftest import GANG, SWEPT
from tests.cluster.made_sweeps import same_ends, whole, write
from tests.servers.ray import TOKEN, RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SWEEP: dict[str, Any] = {
    "run": SWEPT | {"distributed": GANG},
    "searcher": "grid",
    "budget": {"steps": 4},
    "report_steps": 2,
    "slots": 2,
    "space": {"learning_rate": {"choice": [1e-3, 5e-3]}},
}

# Of another job, which raylora knows nothing of.
STRANGER = """
import sys, ray

ray.init(sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=1)
class Tenant:
    def is_there(self):
        return True

tenant = Tenant.remote()
ray.get(tenant.is_there.remote())
print("there", flush=True)
sys.stdin.read()
"""


@contextmanager
def stranger(head: RayHead) -> Iterator[None]:
    """An actor that takes a core for as long."""
    words = [sys.executable, "-c", STRANGER, head.address]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=os.environ | TOKEN, **pipes) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "there\n"
        try:
            yield
        finally:
            process.stdin.close()


def test_two_sweeps_whose_gangs_compete_come_to_their_ends_one_after_the_other(
    workplace: Path, ray_head: RayHead, new_home: Callable[[], Path]
):
    """Beside the stranger there is room for half a gang, of which none takes it; then for three of the four workers."""
    ray_head.forget_workers()
    commands = [Command(workplace, new_home(), ray_head.env) for _ in range(2)]
    name = write(workplace, "crowded.yaml", SWEEP)
    with stranger(ray_head):
        running = [command.start("sweep", name, "--json") for command in commands]
        wait_until(lambda: len(ray_head.census()["groups"]) == 2, 120)  # the workers of both are asked for
        for each in running:
            each.wait_for("starting workers")
            assert "training" not in each.said
    results = [whole(each.end()) for each in running]
    same_ends(*results)
    assert [trial["status"] for trial in results[0]["trials"]] == ["succeeded"] * 2
    seen = [env["RANK"] for env in ray_head.seen_by_workers().values() if "RANK" in env]
    assert sorted(seen) == ["0", "0", "1", "1"]
    assert ray_head.census() == {"actors": [], "groups": []}
