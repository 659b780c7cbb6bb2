"""Ray Train's controller, which nobody else can name, made known to the mailbox. Runs in the controller."""

from __future__ import annotations

import ray
from ray.actor import ActorHandle
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from typing_extensions import override

from raylora.runtime.cluster.mailbox import Mailbox


class Introduction(ControllerCallback):
    """Introduces the controller once it has started.

    Args:
        mailbox: The run's mailbox.
    """

    def __init__(self, mailbox: ActorHandle[Mailbox]) -> None:
        self._mailbox = mailbox

    @override
    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Introduce it.

        Args:
            train_run_context: Of the run.
        """
        self._mailbox.introduce.remote(ray.get_runtime_context().current_actor)
