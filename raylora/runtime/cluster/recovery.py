"""Which failures of a worker group are worth a restart. A failure enters, Ray Train's decision leaves.

Called by Ray Train's controller.
"""

from __future__ import annotations

from ray.train import WorkerGroupError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from typing_extensions import override

from raylora.errors import RayloraError
from raylora.runtime.cluster.failures import cause


class Recovery(DefaultFailurePolicy):
    """Restarts workers that were lost, so and so often; an error of ours would come again, and ends the run at once.

    Args:
        max_failures: Restarts after failures, and as many again after nodes were taken back, which Ray counts apart.
    """

    def __init__(self, max_failures: int) -> None:
        super().__init__(FailureConfig(max_failures=max_failures, max_preemption_failures=max_failures))

    @override
    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Decide on one failure.

        Args:
            training_failed_error: Of the workers or the controller.
        """
        if isinstance(training_failed_error, WorkerGroupError):
            failures = training_failed_error.worker_failures.values()
            if any(isinstance(cause(failure), RayloraError) for failure in failures):
                return FailureDecision.RAISE
        return super().make_decision(training_failed_error)
