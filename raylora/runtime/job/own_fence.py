"""The fence of a group of workers, which shuts out those in whose place the group has come.

A job and the ranks enter, the fence of the store that they write to leaves. Called before they load anything.
"""

from __future__ import annotations

from dataclasses import replace

from raylora.runtime.cluster.mailbox import Job, PackJob
from raylora.store.fence import Fence, enter
from raylora.train.ranks import Ranks


def own_fence(job: Job | PackJob, work: str, ranks: Ranks) -> Fence:
    """Take the place of groups of workers before this one; called on all of its workers.

    Args:
        job: What it does.
        work: Names that among what the driver's workers do at once.
        ranks: Of the group.

    Raises:
        StoreError: The store refused; on every rank.
    """
    return replace(job.fence, group=ranks.store(lambda: enter(job.fence, work)))
