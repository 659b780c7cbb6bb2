"""How many workers a group has: as many as asked, from its start to its end. Called by Ray Train's controller.

A run that has workers on a node which will be taken away is asked to save, while there is time. That a pack's workers
are gone is told before others are waited for: a node that was lost may be long in coming, or not come at all.
"""

from __future__ import annotations

import logging
import time

import ray
from ray._private import state
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ScalingDecision
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2.api.config import ScalingConfig
from typing_extensions import override

from raylora.runtime.cluster.mailbox import Mailbox

log = logging.getLogger("ray.train")
"""In the controller's process nobody listens to raylora's own."""

LOOK_S = 2.0
"""Between two looks at the cluster, while workers train."""

UNANSWERED = (RayError, RuntimeError, OSError)
"""What Ray raises where the cluster's head does not answer for a moment."""


class AsAsked(FixedScalingPolicy):
    """Ray Train's own policy, without the actor that it keeps on each cluster to tell the autoscaler what it needs.

    A placement group that finds no room tells it as well.

    Args:
        scaling: Ray Train's words for how many workers there are, and what each reserves.
        mailbox: Takes the wish to save.
    """

    def __init__(self, scaling: ScalingConfig, mailbox: ActorHandle[Mailbox]) -> None:
        super().__init__(scaling)
        self._mailbox = mailbox
        self._nodes: list[str] = []
        self._announced: set[str] = set()
        self._looked_at = 0.0

    @override
    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        pass

    @override
    def _maybe_send_resource_request(self) -> None:
        pass

    @override
    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Ask for as many as before, and where there were some, tell that they are gone; the first wait for nothing."""
        try:
            if self._nodes:
                ray.get(self._mailbox.miss_workers.remote())
        except UNANSWERED as error:
            log.warning("nobody could be told that the workers are gone: %s", error)
        return super().make_decision_for_non_running_worker_group()

    @override
    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Leave a group that trains as it is, unless the cluster has changed.

        Args:
            worker_group_state: The workers.
            worker_group_status: What they are at.
        """
        self._nodes = [worker.metadata.node_id for worker in worker_group_state.workers]
        if time.monotonic() - self._looked_at < self._look_s:
            return NoopDecision()
        self._looked_at = time.monotonic()
        try:
            leaving = draining_nodes()
            self._save_before(leaving)
            return self._decide(leaving)
        except UNANSWERED as error:
            log.warning("the cluster could not be looked at: %s", error)
            return NoopDecision()

    @property
    def _look_s(self) -> float:
        return LOOK_S

    def _decide(self, leaving: dict[str, int]) -> ScalingDecision:
        return NoopDecision()

    def _save_before(self, leaving: dict[str, int]) -> None:
        new = {node for node in self._nodes if node in leaving} - self._announced
        if new:
            ray.get(self._mailbox.ask_save.remote())
            self._announced |= new


def draining_nodes() -> dict[str, int]:
    """Nodes of which the cluster knows that they will be taken away, by id, with when, in milliseconds of Unix time."""
    return dict(state.state.get_draining_nodes() or {})
