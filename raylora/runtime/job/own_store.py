"""The store of a group of workers, which shuts out those in whose place the group has come.

A job and the ranks enter, the store that they write to leaves. Called by the jobs before they load anything.
"""

from __future__ import annotations

from dataclasses import replace

from raylora.runtime.cluster.mailbox import Job, PackJob
from raylora.store.contract import Store
from raylora.store.fence import enter, open_fenced
from raylora.train.ranks import Ranks


def open_own(job: Job | PackJob, work: str, ranks: Ranks) -> Store:
    """Open the store of all runs for this group of workers; called on all of them.

    Args:
        job: What it does.
        work: Names that among what the driver's workers do at once.
        ranks: Of the group.

    Raises:
        StoreError: The store refused; on every rank.
    """
    group = ranks.store(lambda: enter(job.fence, work))
    return open_fenced(job.store_uri, replace(job.fence, group=group))
