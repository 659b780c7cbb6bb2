"""Two Ray nodes, of which the second has rank 0: lost under packed sweeps in five ways, and under a run in two.

A pack waits until the node is back, since it keeps its number of workers; a run goes on with the other one, and so does
the other pack of a sweep of two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from raylora.spec.reading.load import load_spec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.blob import open_store
from tests.cluster.alone import APART, came_to, curves_alone, told_of, trained_alone
from tests.cluster.command import Command, Running, overrides, wait_until
from tests.cluster.conftest import SWEPT
from tests.cluster.made_sweeps import (
    each_step_told_once,
    in_workplace,
    loaded,
    num_saved,
    run_of,
    same_ends,
    the_record,
    whole,
    write,
)
from tests.cluster.stopped import AGAIN_FROM_THE_BEGINNING, check_as_before
from tests.cluster.two_hosts import MISSED_SOON, Second, hosts
from tests.cluster.undisturbed import client
from tests.conftest import served
from tests.servers.host import Host
from tests.servers.ray import RayHead

__all__ = ["hosts", "in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

NUM_STEPS = 24
CPUS_OF_HEAD, CPUS_OF_SECOND = 2, 3
CPUS_OF_WORKER = 1.6
"""Each node holds one worker, and Ray puts the first one where most is left over. Each computes in one thread."""
SWEEP: dict[str, Any] = {
    "run": SWEPT
    | {"distributed": {"strategy": "fsdp", "num_workers": 2, "cpus_per_worker": CPUS_OF_WORKER}, "save_steps": 4}
    | {"gradient_accumulation_steps": 4},  # steps that last
    "searcher": "grid",
    "budget": {"steps": 40},
    "report_steps": 4,
    "slots": 3,
    "space": {"learning_rate": {"choice": [1e-3, 5e-3, 2e-3]}},
}
TWO_PACKS: dict[str, Any] = {
    "run": SWEPT
    | {"distributed": {"strategy": "ddp", "num_workers": 1, "cpus_per_worker": CPUS_OF_WORKER}, "save_steps": 4}
    | {"gradient_accumulation_steps": 8},
    "searcher": "grid",
    "budget": {"steps": 60},
    "report_steps": 4,
    "slots": 1,
    "space": {"load_in_4bit": {"choice": [True, False]}},
}
"""A trial on each base, each of which has a pack, and a node, to itself."""
RUN_SETTINGS = (
    *("distributed.num_workers=[1, 2]", f"distributed.cpus_per_worker={CPUS_OF_WORKER}", "distributed.max_failures=1"),
    *(f"max_steps={NUM_STEPS}", f"eval_steps={NUM_STEPS}", "save_steps=8", "sample_prompts=[]"),
    "gradient_accumulation_steps=8",
)


@pytest.fixture(scope="module")
def head(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    folder = tmp_path_factory.mktemp("head")
    yield from served(RayHead(folder, num_cpus=CPUS_OF_HEAD, host=hosts[0], env=MISSED_SOON))


@pytest.fixture(scope="module")
def second(hosts: tuple[Host, Host], head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Second]:
    second = Second(hosts, head, tmp_path_factory.mktemp("second"), CPUS_OF_SECOND)
    second.come()
    yield second
    hosts[1].link_up()
    second.die()


@pytest.fixture
def command(hosts: tuple[Host, Host], head: RayHead, workplace: Path, new_home: Callable[[], Path]) -> Command:
    head.forget_workers()
    return Command(workplace, new_home(), head.env, door=hosts[0].door)


@pytest.fixture(scope="module")
def undisturbed(
    hosts: tuple[Host, Host], head: RayHead, second: Second, workplace: Path, new_home: Callable[[], Path]
) -> tuple[Command, dict[str, Any]]:
    """The sweep on both nodes, left alone."""
    command = Command(workplace, new_home(), head.env, door=hosts[0].door)
    return command, whole(command.run("sweep", write(workplace, "lost.yaml", SWEEP), "--json"))


def least_step(command: Command) -> int:
    """Of the trials of the only sweep, as its record has it, which lags behind by a second or little more."""
    return min((trial.steps for trial in the_record(command).trials), default=0)


def take_back(command: Command, head: RayHead, second: Second) -> None:
    """Kill it when the time that was announced is over; the sweep, which had no saves, has used that by then."""
    store = open_store(str(command.home / "store"))
    assert num_saved(store, since=1) == 0
    with head.at_rest():  # it takes seconds until the word is given
        deadline = second.announce_its_end()
    wait_until(lambda: num_saved(store, since=1) == 3, deadline - time.monotonic())
    seen = least_step(command)
    wait_until(lambda: least_step(command) >= seen + 4, deadline - time.monotonic())  # the saves were told meanwhile
    with head.at_rest():  # the steps that are left are for what follows
        time.sleep(max(0.0, deadline - time.monotonic()))
    second.die()


def check_went_on(
    command: Command, head: RayHead, second: Second, lose: Callable[[], None], *words: str
) -> dict[str, Any]:
    """Lose the second node of a sweep, and have it back; returns the result of the sweep, of which nothing is left."""
    before = head.in_use()
    running = command.start("sweep", "lost.yaml", "--json", *words)
    running.wait_for("training")
    wait_until(lambda: least_step(command) >= 12, 120)
    first = [head.worker(rank=0), head.worker(rank=1)]
    assert second.has(first[0]) and not second.has(first[1])
    lose()
    second.come()
    result = ended_whole(command, head, running, before, ranks=["0", "0", "1", "1"])
    assert not any(worker.is_running() for worker in first)
    return result


def ended_whole(
    command: Command, head: RayHead, running: Running, before: dict[str, Any], ranks: list[str]
) -> dict[str, Any]:
    """Wait for a sweep that lost nothing and leaves nothing; ``ranks`` are those of all workers that ever began."""
    ended = running.end()
    result = whole(ended)
    each_step_told_once(command, result)
    assert AGAIN_FROM_THE_BEGINNING not in ended.err
    assert sorted(env["RANK"] for env in head.seen_by_workers().values() if "RANK" in env) == ranks
    check_as_before(head, before, ended)
    return result


def check_as_alone(command: Command, trials: list[dict[str, Any]], sweep: SweepSpec, folder: Path) -> None:
    """Hold validation losses of trials that share a base against those of one process, step by step."""
    alone = curves_alone([run_of(sweep, trial) for trial in trials], folder)
    records = {record.trial_id: record for record in the_record(command).trials}
    for trial, losses in zip(trials, alone, strict=True):
        curve = records[trial["trial_id"]].curve
        told = {point.step: point.eval_loss for point in curve if point.eval_loss is not None}
        assert list(told) == list(range(sweep.report_steps, trial["steps"] + 1, sweep.report_steps))
        assert told == pytest.approx({step: losses[step] for step in told}, abs=APART), trial["trial_id"]


def test_a_sweep_on_two_nodes_trains_what_one_process_does(
    undisturbed: tuple[Command, dict[str, Any]], in_workplace: Path, tmp_path: Path
):
    command, result = undisturbed
    check_as_alone(command, result["trials"], loaded(in_workplace, "lost.yaml"), tmp_path)


def test_a_sweep_whose_node_is_killed_goes_on_when_it_is_back(
    command: Command, head: RayHead, second: Second, undisturbed: tuple[Command, dict[str, Any]]
):
    same_ends(check_went_on(command, head, second, second.die), undisturbed[1])


def test_a_sweep_whose_link_to_a_node_is_cut_goes_on_when_it_is_back(
    command: Command, head: RayHead, second: Second, undisturbed: tuple[Command, dict[str, Any]]
):
    same_ends(check_went_on(command, head, second, second.lose_its_link), undisturbed[1])


def test_a_sweep_goes_on_when_a_node_is_back_whose_raylet_alone_was_killed(
    command: Command, head: RayHead, second: Second, undisturbed: tuple[Command, dict[str, Any]]
):
    same_ends(check_went_on(command, head, second, second.lose_its_raylet), undisturbed[1])


def test_a_sweep_is_saved_before_its_node_is_taken_back(
    command: Command, head: RayHead, second: Second, undisturbed: tuple[Command, dict[str, Any]]
):
    """It has no other saves."""
    result = check_went_on(command, head, second, lambda: take_back(command, head, second), "--set", "save_steps=null")
    same_ends(result, undisturbed[1])


def test_of_two_packs_that_of_a_node_which_is_killed_goes_on_when_it_is_back_and_the_other_does_not_wait(
    command: Command, head: RayHead, second: Second, in_workplace: Path, tmp_path: Path
):
    before = head.in_use()
    running = command.start("sweep", write(command.folder, "two-packs.yaml", TWO_PACKS), "--json")
    running.wait_for("training")
    wait_until(lambda: len(the_record(command).trials) == 2 and least_step(command) >= 8, 240)
    first = [psutil.Process(pid) for pid in head.workers()]
    assert sorted(map(second.has, first)) == [False, True]
    second.die()
    wait_until(lambda: " succeeded" in running.said, 240)
    over = [trial.trial_id for trial in the_record(command).trials if f"{trial.trial_id} succeeded" in running.said]
    assert len(over) == 1, "its node is there"
    second.come()
    # Of the pack that was lost, the worker began again.
    result = ended_whole(command, head, running, before, ranks=["0"] * 3)
    assert [(trial["status"], trial["steps"], trial["pack"]) for trial in result["trials"]] == [
        ("succeeded", 60, 0),
        ("succeeded", 60, 1),
    ]
    for trial in result["trials"]:
        check_as_alone(command, [trial], loaded(in_workplace, "two-packs.yaml"), tmp_path)


def check_goes_on_alone(
    command: Command, head: RayHead, second: Second, lose: Callable[[], None], folder: Path
) -> list[psutil.Process]:
    """Lose the node of rank 0 of a run, which ends on the other one; returns the workers that it had before."""
    running = command.start("train", "run.yaml", "--json", *overrides(*RUN_SETTINGS))
    running.wait_for("step 10/")
    first = [head.worker(rank=0), head.worker(rank=1)]
    assert second.has(first[0]) and not second.has(first[1])
    lose()
    ended = running.end()
    assert ended.code == 0, ended.err
    assert ended.begun in ([0, 8], [0, 16])
    assert ended.json["num_workers"] == 1
    alone = trained_alone(load_spec(command.folder / "run.yaml", RUN_SETTINGS).spec, folder)
    came_to(alone, ended.json)
    told_of(alone, client(command), ended.json["mlflow_run_id"])
    return first


def test_a_run_goes_on_without_a_node_whose_raylet_alone_was_killed(
    command: Command, head: RayHead, second: Second, in_workplace: Path, tmp_path: Path
):
    """The worker there trained on when its raylet was gone, and ended by itself."""
    first = check_goes_on_alone(command, head, second, second.lose_its_raylet, tmp_path)
    assert not any(worker.is_running() for worker in first)
    second.come()


def test_a_run_goes_on_without_the_node_of_rank_0(
    command: Command, hosts: tuple[Host, Host], head: RayHead, second: Second, in_workplace: Path, tmp_path: Path
):
    check_goes_on_alone(command, head, second, hosts[1].cut_off, tmp_path)
