"""What the loop on a worker tells and asks: events and the wish to stop by the mailbox, checkpoints in the store."""

from __future__ import annotations

from dataclasses import replace

import ray
from ray.actor import ActorHandle

from raylora.runtime.mailbox import Mailbox
from raylora.store.checkpoint import Checkpoint, fall_back, save_checkpoint
from raylora.store.contract import Store
from raylora.train.events import Event


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

    def stop_requested(self) -> bool:
        """Ask the mailbox."""
        return bool(ray.get(self._mailbox.stopping.remote()))

    def save(self, checkpoint: Checkpoint) -> str:
        """Write a checkpoint; returns its URI."""
        return save_checkpoint(self._store, checkpoint, self._keep)

    def fall_back(self, step: int) -> str:
        """Delete checkpoints beyond a step where there is one up to it; returns that one's URI, or nothing."""
        return fall_back(self._store, step)
