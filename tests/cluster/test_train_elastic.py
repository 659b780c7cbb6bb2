"""A run on two Ray nodes, of which one goes and comes back, three times: drained with notice, killed, and cut off."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import came_to, told_of, trained_alone
from tests.cluster.command import LONG_S, Command, Ended, Running, overrides, wait_until
from tests.cluster.made_sweeps import in_workplace
from tests.cluster.two_hosts import MISSED_SOON, announce, hosts, second_node
from tests.cluster.undisturbed import client
from tests.conftest import served
from tests.servers.host import Host
from tests.servers.process import Server
from tests.servers.ray import RayHead

__all__ = ["hosts", "in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(1800)]

NUM_STEPS = 60
SETTINGS = (
    *("distributed.num_workers=[1, 2]", "distributed.max_failures=2", "gradient_accumulation_steps=8"),
    *(f"max_steps={NUM_STEPS}", f"eval_steps={NUM_STEPS}", "save_steps=null", "sample_prompts=[]"),
)


@pytest.fixture(scope="module")
def head(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    yield from served(RayHead(tmp_path_factory.mktemp("head"), num_cpus=1, host=hosts[0], env=MISSED_SOON))


def take_back(hosts: tuple[Host, Host], head: RayHead, second: Server, running: Running, home: Path) -> None:
    """End the second node at the moment that was announced; the run, which had no checkpoint, has one by then."""
    deadline = announce(hosts, head)
    with suppress(TimeoutError):
        wait_until(lambda: num_starts(running) == 2, deadline - time.monotonic())
    with head.at_rest():  # the steps that are left are for what follows
        time.sleep(max(0.0, deadline - time.monotonic()))
    saved = list(home.glob("store/runs/*/checkpoints/step-*/manifest.json"))
    second.stop(signal.SIGKILL)
    assert saved, "the notice was not used"


@pytest.fixture(scope="module")
def command(hosts: tuple[Host, Host], head: RayHead, workplace: Path, new_home: Callable[[], Path]) -> Command:
    return Command(workplace, new_home(), head.env, door=hosts[0].door)


@pytest.fixture(scope="module")
def ended(command: Command, hosts: tuple[Host, Host], head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    logs = tmp_path_factory.mktemp("second")
    second = second_node(hosts[1], head, logs / "0.log")
    running = command.start("train", "run.yaml", "--json", *overrides(*SETTINGS))
    losses: list[Callable[[], None]] = [
        lambda: take_back(hosts, head, second, running, command.home),
        lambda: second.stop(signal.SIGKILL),
        hosts[1].cut_off,
    ]
    try:
        for number, lose in enumerate(losses):
            starts(running, 2 * number + 1)
            running.wait_for(f"step {steps_done(running) + 3}/")
            lose()
            starts(running, 2 * number + 2)
            second.stop(signal.SIGKILL)
            hosts[1].link_up()
            if lose is not losses[-1]:
                running.wait_for(f"step {steps_done(running) + 2}/")
                with head.at_rest():
                    second = second_node(hosts[1], head, logs / f"{number + 1}.log")
        return running.end()
    finally:
        second.stop(signal.SIGKILL)


def starts(running: Running, number: int) -> None:
    """Wait until workers have begun so and so often."""
    wait_until(lambda: num_starts(running) >= number or running.process.poll() is not None, LONG_S)
    assert num_starts(running) == number, running.said


def num_starts(running: Running) -> int:
    return running.said.count(" steps to do, ")


def steps_done(running: Running) -> int:
    """Steps that the newest workers began with."""
    return int(running.said.rpartition(" steps to do, ")[2].split()[0])


def test_two_workers_then_one_and_so_on(ended: Ended, head: RayHead):
    assert ended.code == 0, ended.err
    seen = [(env["WORLD_SIZE"], env["RANK"]) for env in head.seen_by_workers().values()]
    assert sorted(seen) == [*[("1", "0")] * 3, *[("2", "0")] * 3, *[("2", "1")] * 3]
    assert ended.json["num_workers"] == len(ended.json["base_bytes_per_rank"]) == 1


def test_the_run_was_saved_before_it_left_a_node_and_before_it_grew(ended: Ended):
    """It has no other checkpoints."""
    begun = ended.begun
    assert begun[0] == 0
    assert 0 < begun[1] < begun[2] <= begun[3] < begun[4] <= begun[5] < NUM_STEPS


def test_every_step_was_that_of_one_process_whatever_the_number_of_workers(
    ended: Ended, command: Command, in_workplace: Path, tmp_path: Path
):
    """One that takes as many rows in each step, and was never disturbed."""
    alone = trained_alone(load_spec(in_workplace / "run.yaml", SETTINGS).spec, tmp_path)
    came_to(alone, ended.json)
    told_of(alone, client(command), ended.json["mlflow_run_id"])
