"""How many workers a group has: as many as asked, from its start to its end. Called by Ray Train's controller."""

from __future__ import annotations

from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from typing_extensions import override


class AsAsked(FixedScalingPolicy):
    """Ray Train's own policy, without the actor that it keeps on each cluster to tell the autoscaler what it needs.

    A placement group that finds no room tells it as well.
    """

    @override
    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        pass

    @override
    def _maybe_send_resource_request(self) -> None:
        pass
