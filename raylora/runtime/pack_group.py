"""The worker group of one pack: it starts at once, waits for its job, and tells what its runs do.

Called by the sweep.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import ray

from raylora.runtime.cluster.environment import forwarded
from raylora.runtime.cluster.mailbox import PackJob, open_mailbox
from raylora.runtime.group import Group
from raylora.spec.run import RunSpec
from raylora.train.events import Event

RESTARTS = 1
"""Where the spec does not say: a worker that died once may have been killed by chance, and many trials hang on it."""


class PackGroup:
    """Workers that train many runs on one base.

    Args:
        spec: What the runs share.
    """

    def __init__(self, spec: RunSpec) -> None:
        self._scratch = TemporaryDirectory(prefix="raylora-", ignore_cleanup_errors=True)
        self._mailbox = open_mailbox(forwarded(spec.ray.forward_env))
        self._group = Group(spec, self._mailbox, Path(self._scratch.name), RESTARTS)
        self._num_seen = 0

    def begin(self, job: PackJob) -> None:
        """Let the workers load the base and ask the desk."""
        self._mailbox.post_job.remote(job)

    def events(self) -> list[Event]:
        """What the runs told since the last call; does not wait for more."""
        events: list[Event] = ray.get(self._mailbox.after.remote(self._num_seen, 0.0))
        self._num_seen += len(events)
        return events

    @property
    def running(self) -> bool:
        """Whether the workers are at it."""
        return self._group.running

    @property
    def lost_controller(self) -> bool:
        """See `Group.lost_controller`."""
        return self._group.lost_controller

    def check(self) -> None:
        """Raise what ended the group.

        Raises:
            RayloraError: A worker's own error, with its rank, or why the group could not run.
        """
        self._group.check()

    def close(self) -> None:
        """End workers that are still at it, and give back what they held."""
        self._group.close()
        ray.kill(self._mailbox)
        self._scratch.cleanup()
