"""Ray Train's controller tells its driver which processes train, and when it sees a failure and acts on it.

Runs in the controller, in the place of raylora's own `Introduction`, where `recovery_driver.py` puts it.
"""

from __future__ import annotations

import time
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupContext
from typing_extensions import override

from raylora.runtime.cluster.introduction import Introduction
from raylora.train.events import Event


class Witness(Introduction, WorkerGroupCallback):
    """Goes on to tell what happens, in events of a kind that only displays look at, with the time in them."""

    @override
    def after_worker_group_training_start(self, worker_group: WorkerGroup) -> None:
        self._tell("started", pids=[worker.metadata.pid for worker in worker_group.get_workers()])

    @override
    def before_controller_execute_failure_decision(self, failure_decision: FailureDecision) -> None:
        self._tell("noticed")

    @override
    def after_worker_group_shutdown(self, worker_group_context: WorkerGroupContext) -> None:
        self._tell("ended")

    def _tell(self, what: str, **more: Any) -> None:
        self._mailbox.put.remote(Event("doing", 0, {"what": what, "at": time.time(), **more}))
