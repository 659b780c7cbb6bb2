"""Two Ray nodes, of which the second has rank 0: it is killed under a packed sweep, and cut off from a run.

The sweep waits until the node is back, since a pack keeps its number of workers; the run goes on with the other one.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from raylora.spec.load import load_spec
from raylora.store.blob import open_store
from tests.cluster.alone import APART, came_to, curves_alone, told_of, trained_alone
from tests.cluster.command import Command, overrides, wait_until
from tests.cluster.conftest import SWEPT
from tests.cluster.made_sweeps import (
    each_step_told_once,
    in_workplace,
    loaded,
    num_saved,
    run_of,
    the_record,
    whole,
    write,
)
from tests.cluster.stopped import AGAIN_FROM_THE_BEGINNING, check_as_before
from tests.cluster.two_hosts import MISSED_SOON, NODES, hosts, second_node
from tests.cluster.undisturbed import client
from tests.conftest import served
from tests.servers.host import Host
from tests.servers.process import Server
from tests.servers.ray import TOKEN, RayHead, asked

__all__ = ["hosts", "in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

NUM_STEPS = 24
CPUS_OF_HEAD, CPUS_OF_SECOND = 2, 3
CPUS_OF_WORKER = 1.6
"""Each node holds one worker, and Ray puts the first one where most is left over. Each computes in one thread."""
SWEEP: dict[str, Any] = {
    "run": SWEPT
    | {"distributed": {"strategy": "fsdp", "num_workers": 2, "cpus_per_worker": CPUS_OF_WORKER}, "save_steps": 4},
    "searcher": "grid",
    "budget": {"steps": 40},
    "report_steps": 4,
    "slots": 3,
    "space": {"learning_rate": {"choice": [1e-3, 5e-3, 2e-3]}},
}
RUN_SETTINGS = (
    *("distributed.num_workers=[1, 2]", f"distributed.cpus_per_worker={CPUS_OF_WORKER}", "distributed.max_failures=1"),
    *(f"max_steps={NUM_STEPS}", f"eval_steps={NUM_STEPS}", "save_steps=8", "dtype=float32", "sample_prompts=[]"),
    "gradient_accumulation_steps=8",
)


@pytest.fixture(scope="module")
def head(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    folder = tmp_path_factory.mktemp("head")
    yield from served(RayHead(folder, num_cpus=CPUS_OF_HEAD, host=hosts[0], env=MISSED_SOON))


class Second:
    """The second node, which goes and comes back."""

    def __init__(self, host: Host, head: RayHead, logs: Path) -> None:
        self._host, self._head, self._logs = host, head, logs
        self._node: Server | None = None

    def come(self) -> None:
        number = len(list(self._logs.iterdir()))
        self._node = second_node(self._host, self._head, self._logs / f"{number}.log", CPUS_OF_SECOND)

    def die(self) -> None:
        """All its processes are killed; the cluster has noticed when this returns."""
        if self._node is not None:
            self._node.stop(signal.SIGKILL)
        wait_until(lambda: self._host.address not in self._alive(), 60)

    def has(self, worker: psutil.Process) -> bool:
        """Whether a process is one of its own."""
        assert self._node is not None and self._node.process is not None
        return self._node.process.pid in {parent.pid for parent in worker.parents()}

    def _alive(self) -> dict[str, str]:
        return json.loads(asked(self._head.address, NODES, os.environ | TOKEN, self._head.door))


@pytest.fixture(scope="module")
def second(hosts: tuple[Host, Host], head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Second]:
    second = Second(hosts[1], head, tmp_path_factory.mktemp("second"))
    second.come()
    yield second
    hosts[1].link_up()
    second.die()


@pytest.fixture
def command(hosts: tuple[Host, Host], head: RayHead, workplace: Path, new_home: Callable[[], Path]) -> Command:
    head.forget_workers()
    return Command(workplace, new_home(), head.env, door=hosts[0].door)


def test_a_sweep_whose_node_is_killed_goes_on_when_it_is_back(
    command: Command, head: RayHead, second: Second, in_workplace: Path, tmp_path: Path
):
    before, store = head.in_use(), open_store(str(command.home / "store"))
    running = command.start("sweep", write(command.folder, "lost.yaml", SWEEP), "--json")
    running.wait_for("training")
    wait_until(lambda: num_saved(store, since=12) == 3, 120)
    first = [head.worker(rank=0), head.worker(rank=1)]
    assert second.has(first[0]) and not second.has(first[1])
    second.die()
    second.come()
    ended = running.end()
    result = whole(ended)
    each_step_told_once(command, result)
    assert AGAIN_FROM_THE_BEGINNING not in ended.err
    runs = [run_of(loaded(in_workplace, "lost.yaml"), trial) for trial in result["trials"]]
    for trial, alone in zip(the_record(command).trials, curves_alone(runs, tmp_path), strict=True):
        told = {point.step: point.eval_loss for point in trial.curve if point.eval_loss is not None}
        assert list(told) == list(range(4, 41, 4))
        assert told == pytest.approx({step: alone[step] for step in told}, abs=APART), trial.trial_id
    assert not any(worker.is_running() for worker in first)
    check_as_before(head, before, ended)


def test_a_run_goes_on_without_the_node_of_rank_0(
    command: Command, hosts: tuple[Host, Host], head: RayHead, second: Second, in_workplace: Path, tmp_path: Path
):
    running = command.start("train", "run.yaml", "--json", *overrides(*RUN_SETTINGS))
    running.wait_for("step 10/")
    first = head.worker(rank=0)
    assert second.has(first) and not second.has(head.worker(rank=1))
    hosts[1].cut_off()
    ended = running.end()
    assert ended.code == 0, ended.err
    assert ended.begun in ([0, 8], [0, 16])
    assert ended.json["num_workers"] == 1
    alone = trained_alone(load_spec(in_workplace / "run.yaml", RUN_SETTINGS).spec, tmp_path)
    came_to(alone, ended.json)
    told_of(alone, client(command), ended.json["mlflow_run_id"])
