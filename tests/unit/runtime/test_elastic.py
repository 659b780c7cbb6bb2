"""How many workers a run gets on clusters that shrink and grow; these are numbers, tests/cluster has a real one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision

from raylora.runtime.cluster import as_asked, elastic
from raylora.runtime.cluster.as_asked import LOOK_S, AsAsked
from raylora.runtime.cluster.elastic import SETTLE_S, Elastic

NODES = ("a", "b", "c")
FOUR = ScalingConfig(num_workers=4, resources_per_worker={"CPU": 1})


class Cluster:
    """Places by node, nodes that will be taken away, a clock, and checkpoints of a run that was asked to save."""

    def __init__(self) -> None:
        self.free: list[str] = []
        self.draining: dict[str, int] = {}
        self.now_s = 100.0
        self.lost: set[str] = set()
        self.is_away = False
        self.num_saved = 3
        self.num_asked = self.num_missed = 0

    def miss_workers(self) -> None:
        if self.is_away:
            raise RuntimeError("the head does not answer")
        self.num_missed += 1

    def ask_save(self) -> int:
        self.num_asked += 1
        return self.num_saved

    def num_saves(self) -> int:
        return self.num_saved

    def told_of_draining(self) -> dict[str, int]:
        if self.is_away:
            raise RuntimeError("the head does not answer")
        return self.draining

    def available_resources_per_node(self) -> dict[str, dict[str, float]]:
        return {node: {} for node in NODES if node not in self.lost}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    clock = SimpleNamespace(
        monotonic=lambda: cluster.now_s, sleep=lambda s: setattr(cluster, "now_s", cluster.now_s + s)
    )
    for module in (as_asked, elastic):
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "ray", SimpleNamespace(get=lambda answer: answer))
        monkeypatch.setattr(module, "draining_nodes", lambda: cluster.told_of_draining())
    monkeypatch.setattr(elastic, "state", cluster)
    monkeypatch.setattr(elastic, "free_places", lambda needed, but: [node for node in cluster.free if node not in but])
    return cluster


@pytest.fixture
def mailbox(cluster: Cluster) -> Any:
    asked = {"ask_save": cluster.ask_save, "num_saves": cluster.num_saves, "miss_workers": cluster.miss_workers}
    return SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in asked.items()})


@pytest.fixture
def policy(mailbox: Any) -> Elastic:
    return Elastic(FOUR, 2, mailbox)


def size(decision: ScalingDecision) -> int | None:
    if isinstance(decision, NoopDecision):
        return None
    return cast("ResizeDecision", decision).num_workers


def while_training(policy: AsAsked, cluster: Cluster, *nodes: str) -> int | None:
    """What is decided at the next look at workers on these nodes."""
    cluster.now_s += LOOK_S
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=node)) for node in nodes]
    state: Any = SimpleNamespace(workers=workers, num_workers=len(workers))
    return size(policy.make_decision_for_running_worker_group(state, cast("Any", None)))


def test_as_many_as_asked_start_at_once(policy: Elastic, cluster: Cluster):
    cluster.free = ["a", "a", "b", "b", "c"]
    assert size(policy.make_decision_for_non_running_worker_group()) == 4


def test_fewer_start_when_there_is_no_room_for_more_for_a_while(policy: Elastic, cluster: Cluster):
    cluster.free = ["a", "b", "b"]
    began_s, decided = cluster.now_s, None
    while decided is None:
        decided = size(policy.make_decision_for_non_running_worker_group())
    assert decided == 3
    assert SETTLE_S <= cluster.now_s - began_s < SETTLE_S + 1


def to_start(policy: Elastic) -> int:
    """What is decided in the end about a group that does not train."""
    while (decided := size(policy.make_decision_for_non_running_worker_group())) is None:
        pass
    return decided


@pytest.mark.parametrize("free", [[], ["a"]])
def test_where_there_is_no_room_for_the_fewest_ray_waits_for_it(policy: Elastic, cluster: Cluster, free: list[str]):
    """A placement group that waits is what a cluster that grows hears of."""
    cluster.free = free
    assert to_start(policy) == 2


def test_places_on_a_node_that_will_be_taken_away_do_not_count(policy: Elastic, cluster: Cluster):
    cluster.free, cluster.draining = ["a", "a", "a", "b", "b"], {"b": 0}
    assert to_start(policy) == 3


@pytest.mark.parametrize(("lost", "left"), [(set(), 4), ({"b"}, 2), ({"a", "b"}, 2)])
def test_places_of_workers_that_ended_count_where_their_nodes_are_left(
    policy: Elastic, cluster: Cluster, lost: set[str], left: int
):
    """Ray Train gives them back only when it starts others."""
    assert while_training(policy, cluster, "a", "a", "b", "b") is None
    cluster.lost = lost
    assert to_start(policy) == left


def test_workers_that_are_well_stay(policy: Elastic, cluster: Cluster):
    assert while_training(policy, cluster, "a", "a", "b") is None
    cluster.free = ["c"]
    assert while_training(policy, cluster, "a", "a", "b", "b") is None, "there are as many as asked"
    assert cluster.num_asked == 0


def test_a_group_grows_once_it_is_saved(policy: Elastic, cluster: Cluster):
    cluster.free = ["b", "b", "b"]
    assert while_training(policy, cluster, "a", "a") is None
    assert while_training(policy, cluster, "a", "a") is None, "not saved yet"
    cluster.num_saved += 1
    assert while_training(policy, cluster, "a", "a") == 4


def test_a_node_that_will_be_taken_away_is_left_once_the_run_is_saved(policy: Elastic, cluster: Cluster):
    cluster.draining = {"b": 0}
    assert while_training(policy, cluster, "a", "a", "b") is None
    cluster.num_saved += 1
    assert while_training(policy, cluster, "a", "a", "b") == 2


def test_a_node_is_not_left_for_fewer_than_the_fewest_but_the_run_is_saved(policy: Elastic, cluster: Cluster):
    cluster.draining = {"b": 0}
    for _ in range(3):
        assert while_training(policy, cluster, "a", "b") is None
    assert cluster.num_asked == 1


def test_a_group_that_may_not_shrink_is_saved_once_for_each_node_that_will_be_taken_away(
    cluster: Cluster, mailbox: Any
):
    policy = AsAsked(FOUR, mailbox)
    asked = []
    for draining in ({}, {"c": 0}, {"b": 0}, {"b": 0}, {"a": 0, "b": 0}):
        cluster.draining = draining
        assert while_training(policy, cluster, "a", "a", "b", "b") is None
        asked.append(cluster.num_asked)
    assert asked == [0, 0, 1, 1, 2]


def test_that_workers_are_gone_is_told_before_others_are_waited_for(cluster: Cluster, mailbox: Any):
    policy = AsAsked(FOUR, mailbox)
    assert size(policy.make_decision_for_non_running_worker_group()) == 4
    assert while_training(policy, cluster, "a", "a", "b", "b") is None
    assert cluster.num_missed == 0
    assert size(policy.make_decision_for_non_running_worker_group()) == 4
    assert cluster.num_missed == 1
    cluster.is_away = True
    assert size(policy.make_decision_for_non_running_worker_group()) == 4


def test_a_head_that_does_not_answer_for_a_moment_changes_nothing(policy: Elastic, cluster: Cluster):
    cluster.free, cluster.is_away = ["b", "b"], True
    assert while_training(policy, cluster, "a", "a") is None
    assert size(policy.make_decision_for_non_running_worker_group()) is None
    cluster.is_away = False
    assert to_start(policy) == 4


def test_a_chance_that_has_gone_is_forgotten(policy: Elastic, cluster: Cluster):
    cluster.free = ["b"]
    assert while_training(policy, cluster, "a", "a") is None
    cluster.free = []
    cluster.num_saved += 1
    assert while_training(policy, cluster, "a", "a") is None
    cluster.free = ["b"]
    assert while_training(policy, cluster, "a", "a") is None, "what was saved then is old"


def test_the_next_size_needs_a_save_of_its_own(policy: Elastic, cluster: Cluster):
    cluster.free = ["b"]
    assert while_training(policy, cluster, "a", "a") is None
    cluster.num_saved += 1
    assert while_training(policy, cluster, "a", "a") == 3
    assert while_training(policy, cluster, "a", "a", "b") is None


def test_the_cluster_is_not_asked_all_the_time(policy: Elastic, cluster: Cluster):
    assert while_training(policy, cluster, "a", "a") is None
    cluster.free = ["b"]
    cluster.now_s -= LOOK_S / 2
    assert while_training(policy, cluster, "a", "a") is None
    assert cluster.num_asked == 0
