"""What is told of several workers' failures, in Ray's own wrappings."""

from __future__ import annotations

from ray.exceptions import ActorDiedError, RaySystemError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from raylora.errors import LostClusterError, NonFiniteLossError, RunFailedError, WorkerError
from raylora.runtime.cluster.failures import lost_contact, worker_error

DIED = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
COLLATERAL = RuntimeError("[gloo] Connection closed by peer\nat somewhere.cc:12")


def test_an_error_of_ours_comes_first_and_keeps_its_kind():
    ours = UserExceptionWithTraceback(NonFiniteLossError("loss is nan"), "a long traceback")
    told = worker_error(WorkerGroupError("", {0: COLLATERAL, 1: DIED, 2: ours}))
    assert type(told) is NonFiniteLossError
    assert str(told) == "rank 2: loss is nan"


def test_a_death_comes_before_what_others_saw_of_it():
    told = worker_error(WorkerGroupError("", {0: COLLATERAL, 1: DIED}))
    assert type(told) is WorkerError
    assert str(told).startswith("rank 1: its process died")


def test_silence_comes_before_what_others_saw_of_it_and_names_its_bound():
    told = worker_error(WorkerGroupError("", {0: COLLATERAL, 1: WorkerHealthCheckTimeoutError("hanging for 11 s")}))
    assert type(told) is WorkerError
    assert str(told).startswith("rank 1: it did not answer for as long as distributed.worker_timeout_s")


def test_any_other_error_is_told_in_one_line():
    told = worker_error(WorkerGroupError("", {3: COLLATERAL}))
    assert str(told) == "rank 3: RuntimeError: [gloo] Connection closed by peer"


def test_a_cluster_without_raylora_is_told_from_a_lost_one():
    missing = lost_contact(RaySystemError("traceback\nModuleNotFoundError: No module named 'raylora'"))
    assert type(missing) is RunFailedError
    assert "install the same raylora on every node" in str(missing)
    lost = lost_contact(RaySystemError("the head is gone"))
    assert type(lost) is LostClusterError
    assert "the head is gone" in str(lost)
