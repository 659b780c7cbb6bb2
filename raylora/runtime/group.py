"""The Ray Train worker group of a run, fitted in a thread of its own so that the driver can listen."""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.train import Result, WorkerGroupError
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import (
    ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR,
)
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from typing_extensions import override

from raylora.errors import LostClusterError, RunFailedError
from raylora.log import get_logger
from raylora.runtime.cluster.as_asked import AsAsked
from raylora.runtime.cluster.cluster import worker_resources
from raylora.runtime.cluster.elastic import Elastic
from raylora.runtime.cluster.failures import cause, gist, worker_error
from raylora.runtime.cluster.introduction import Introduction
from raylora.runtime.cluster.mailbox import Mailbox
from raylora.runtime.cluster.network import NodeNetwork
from raylora.runtime.cluster.recovery import Recovery
from raylora.runtime.worker import work
from raylora.spec.run import RunSpec

log = get_logger(__name__)

LOOK_S = "0.5"
"""Time between Ray Train's looks whether workers have ended. Its own two seconds are waited for at the end of each."""

START_PATIENCE_S = 30.0
"""Ray Train's controller is a process that must start before it can be told to end."""

CLOSE_PATIENCE_S = 5.0
"""Workers that are training end sooner; a controller that waits for workers to start hears nothing."""


ELASTIC_FAILURES = 3
"""Restarts of a group that may shrink, where the spec does not say."""


class Group:
    """The workers of one run.

    Args:
        spec: The run.
        mailbox: The run's mailbox.
        scratch: Local folder for what Ray Train itself writes.
        max_failures: Restarts where the spec does not say.
    """

    def __init__(self, spec: RunSpec, mailbox: ActorHandle[Mailbox], scratch: Path, max_failures: int = 0) -> None:
        os.environ.setdefault(HEALTH_CHECK_INTERVAL_S_ENV_VAR, LOOK_S)
        os.environ.setdefault(ENABLE_PREEMPTION_WATCHER_ENV_VAR, "0")  # a process whose word nobody asks for
        os.environ[WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR] = str(spec.distributed.worker_timeout_s)
        asked = spec.distributed.max_failures
        if spec.distributed.min_workers is not None:
            max_failures = ELASTIC_FAILURES
        resources = worker_resources(spec)
        uses_gpu = "GPU" in resources
        scaling = ScalingConfig(
            num_workers=spec.distributed.num_workers, use_gpu=uses_gpu, resources_per_worker=resources
        )
        network = NodeNetwork(backend="nccl" if uses_gpu else "gloo", timeout_s=spec.distributed.timeout_s)
        self._trainer = _Trainer(
            Recovery(max_failures if asked is None else asked),
            _size(spec, scaling, mailbox),
            work,
            train_loop_config={"mailbox": mailbox, "folder": os.getcwd(), "asked_at": time.time()},
            scaling_config=scaling,
            torch_config=cast("Any", network),  # Ray takes any way to a process group
            run_config=RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(scratch),
                callbacks=cast("Any", [Introduction(mailbox)]),  # Ray takes its own kind as well
            ),
        )
        self._mailbox = mailbox
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the workers are at it."""
        return self._thread.is_alive()

    @property
    def lost_controller(self) -> bool:
        """Whether Ray Train's own process died, and the workers with it: no run of theirs had a part in that."""
        return isinstance(self._error, RayActorError)

    def check(self) -> None:
        """Raise what ended the group.

        Raises:
            RayloraError: A worker's own error, with its rank.
            RunFailedError: The group could not run; says why.
        """
        if self._error is None:
            return
        if isinstance(self._error, WorkerGroupError):
            raise worker_error(self._error) from None
        kind = LostClusterError if self.lost_controller else RunFailedError
        raise kind(f"Ray Train gave up: {gist(cause(self._error))}") from self._error

    def close(self) -> None:
        """End workers that are still at it: in good order where they can hear it, by force otherwise."""
        if not self.running:
            return
        try:
            controller = cast("ActorHandle[Any]", ray.get(self._mailbox.controller.remote(), timeout=START_PATIENCE_S))
            controller.abort.remote()
            self._thread.join(CLOSE_PATIENCE_S)
            if self.running:
                ray.kill(controller)
        except RayError as error:
            log.warning("the workers could not be told to end: %s", gist(error))
        # A thread that is still in fit() when Ray is shut down ends the whole process, without a word and with code 1.
        self._thread.join(START_PATIENCE_S)

    def _fit(self) -> None:
        # Outside the main thread fit() leaves SIGINT alone: it belongs to whoever started the run.
        try:
            self._trainer.fit()
        except Exception as error:  # handed to the driver's thread by check()
            self._error = error


def _size(spec: RunSpec, scaling: ScalingConfig, mailbox: ActorHandle[Mailbox]) -> AsAsked:
    fewest = spec.distributed.min_workers
    return AsAsked(scaling, mailbox) if fewest is None else Elastic(scaling, fewest, mailbox)


class _Trainer(TorchTrainer):
    """Has policies of its own for size and failures, and leaves out two more of Ray Train's helpers, each a process.

    Its keeper of placement groups is no driver's, so a run that is cut off leaves it behind; Ray itself removes the
    placement groups of a driver that has ended. Its manager of Ray's data sets has none to manage here.
    """

    def __init__(self, recovery: Recovery, size: AsAsked, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._policies = {"failure_policy": recovery, "scaling_policy": size}

    @override
    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        return super()._initialize_and_run_controller(**(parts | self._policies))

    @override
    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        left_out = PlacementGroupCleanerCallback, DatasetsCallback
        return [callback for callback in callbacks if not isinstance(callback, left_out)]
