"""When a pack saves its slots on its own, for workers that are restarted: by time, and before a node is taken away.

Specs of the pack's runs enter, commands leave. Called by rank 0 of a pack.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import cast

import ray
from ray.actor import ActorHandle

from raylora.runtime.cluster.desk_messages import Save
from raylora.runtime.cluster.mailbox import Mailbox
from raylora.spec.run import RunSpec
from raylora.train.events import Wish

SAVE_S = 120.0
"""What a crash may cost, at most. Saves of a short sweep would take longer than the steps that they keep."""


class OwnSaves:
    """The saves of one pack that no trial asks for.

    Args:
        mailbox: Of the workers; knows of the wish to save.
    """

    def __init__(self, mailbox: ActorHandle[Mailbox]) -> None:
        self._mailbox, self._saved_at = mailbox, time.monotonic()

    def due(self, specs: Mapping[str, RunSpec]) -> list[Save]:
        """Saves that are due: of every run where one of the nodes goes, else in turn of those without `save_steps`.

        Args:
            specs: By lease.
        """
        wish = cast("Wish | None", ray.get(self._mailbox.wish.remote()))
        if wish == "save":
            return [Save(lease, is_awaited=False) for lease in specs]
        if time.monotonic() - self._saved_at < SAVE_S:
            return []
        self._saved_at = time.monotonic()
        return [Save(lease, is_awaited=False) for lease, spec in specs.items() if spec.save_steps is None]
