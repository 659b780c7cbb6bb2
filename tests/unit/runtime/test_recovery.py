"""Which failures restart the workers, in Ray's own wrappings, and how often."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision

from raylora.errors import DataError, NonFiniteLossError, RayloraError, StoreError
from raylora.runtime.cluster.recovery import Recovery

DIED = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
TAKEN_BACK = WorkerHealthCheckFailedError("A worker health check failed.", RayActorError(preempted=True))
COLLATERAL = UserExceptionWithTraceback(RuntimeError("[gloo] Connection closed by peer"), "a long traceback")
RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE


@pytest.mark.parametrize("error", [NonFiniteLossError("loss is nan"), StoreError("full"), DataError("row 7")])
def test_an_error_of_ours_ends_the_run_at_once(error: RayloraError):
    ours = UserExceptionWithTraceback(error, "a long traceback")
    assert Recovery(2).make_decision(WorkerGroupError("", {0: COLLATERAL, 1: ours})) is RAISE


@pytest.mark.parametrize("lost", [DIED, TAKEN_BACK], ids=["died", "taken back"])
def test_lost_workers_are_restarted_as_often_as_asked(lost: Exception):
    recovery, failure = Recovery(2), WorkerGroupError("", {0: COLLATERAL, 1: lost})
    assert [recovery.make_decision(failure) for _ in range(3)] == [RETRY, RETRY, RAISE]
    assert Recovery(0).make_decision(failure) is RAISE
