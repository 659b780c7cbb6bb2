"""What the loop on a worker tells and asks: events and wishes by the mailbox, checkpoints in the store."""

from __future__ import annotations

from dataclasses import replace
from queue import SimpleQueue
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from typing_extensions import override

from raylora.errors import RayloraError, StoreError, UnusableStoreError
from raylora.log import get_logger
from raylora.runtime.cluster.desk_messages import Admit, Report
from raylora.runtime.cluster.mailbox import Mailbox
from raylora.store.checkpoint import Checkpoint, save_checkpoint
from raylora.store.contract import Store
from raylora.store.kept import fall_back, give_up_beyond
from raylora.train.events import Event, Wish

log = get_logger(__name__)

Written = SimpleQueue[Report | UnusableStoreError]
"""What became of the checkpoints of a pack, as its threads of writing tell it."""

DRIVER_PATIENCE_S = 10.0
"""How long a checkpoint waits for a driver that lives but is held up. Ray ends the workers of a dead one sooner."""


class WorkerHooks:
    """The loop's hooks on a worker: events to the mailbox, checkpoints to the store.

    Args:
        mailbox: The run's mailbox.
        store: The run's own store.
        keep: Newest checkpoints kept.
        run_id: The run.
    """

    def __init__(self, mailbox: ActorHandle[Mailbox], store: Store, keep: int, run_id: str) -> None:
        self._mailbox, self._store, self._keep, self._run_id = mailbox, store, keep, run_id

    def emit(self, event: Event) -> None:
        """Send an event; does not wait."""
        self._mailbox.put.remote(replace(event, run_id=self._run_id))

    def deliver(self, event: Event) -> None:
        """Send an event and wait until it is there, with all before it: this worker may end now."""
        ray.get(self._mailbox.put.remote(replace(event, run_id=self._run_id)))

    def wish(self) -> Wish | None:
        """Ask the mailbox."""
        return cast("Wish | None", ray.get(self._mailbox.wish.remote()))

    def save(self, checkpoint: Checkpoint) -> str:
        """Write a checkpoint, in a thread beside training; returns its URI.

        The driver has noted the steps before it by then: those of a checkpoint that outlives a killed driver are not
        done again, and nobody would tell MLflow of them.
        """
        if not self._driver_knows():
            log.warning(
                "step %d is saved though the driver does not answer: see whether it is held up", checkpoint.step
            )
        return self.keep(checkpoint)

    def _driver_knows(self) -> bool:
        try:
            answer: ray.ObjectRef[bool] = self._mailbox.confirmed.remote(DRIVER_PATIENCE_S)
            return ray.get(answer, timeout=2 * DRIVER_PATIENCE_S)
        except GetTimeoutError:
            return False
        except RayError as error:
            raise StoreError("the driver of this run is gone, so nothing more is saved; resume the run") from error

    def keep(self, checkpoint: Checkpoint) -> str:
        """Write a checkpoint at once; returns its URI."""
        return save_checkpoint(self._store, checkpoint, self._keep)

    def give_up_beyond(self, step: int) -> None:
        """Delete checkpoints beyond the step that training goes on from."""
        give_up_beyond(self._store, step)

    def fall_back(self, step: int) -> str:
        """Delete checkpoints beyond a step where there is one up to it; returns that one's URI, or nothing."""
        return fall_back(self._store, step)


class PackHooks(WorkerHooks):
    """Hooks of one lease of a pack: the desk, too, is told of checkpoints.

    Args:
        mailbox: The workers' mailbox.
        store: The run's own store.
        admit: What the lease was let in with.
        written: Takes a report of each checkpoint, whenever it is written or could not be; the error itself where it
            is no fault of the run.
    """

    def __init__(self, mailbox: ActorHandle[Mailbox], store: Store, admit: Admit, written: Written) -> None:
        super().__init__(mailbox, store, admit.spec.storage.keep_checkpoints, admit.run_id)
        self._admit, self._written = admit, written

    @override
    def save(self, checkpoint: Checkpoint) -> str:
        try:
            # At once: the desk waits, and the driver may wait for the desk. What it has not heard by then is told again
            # by whoever goes on from here (train/tail.py).
            uri = self.keep(checkpoint)
        except UnusableStoreError as error:
            self._written.put(error)
            raise
        except RayloraError as error:
            self._written.put(Report(self._admit.lease, "failed", checkpoint.step, {"error": str(error)}))
            raise
        self._written.put(Report(self._admit.lease, "kept", checkpoint.step, {"uri": uri}))
        return uri
