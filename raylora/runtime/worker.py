"""What Ray Train starts on every worker: the environment first, then everything that reads it.

Called by Ray Train with the run's mailbox.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray
import ray.train

from raylora.log import ROOT
from raylora.runtime.cluster.allocator import keep_freed_memory
from raylora.runtime.cluster.environment import put_on
from raylora.runtime.cluster.imports import importing
from raylora.runtime.cluster.mailbox import Job, MailboxHandler, PackJob


def work(config: dict[str, Any]) -> None:
    """Train on this rank.

    Args:
        config: The run's mailbox, the driver's working directory, and the Unix time in seconds at which the driver
            asked for workers.
    """
    mailbox, entered_at = config["mailbox"], time.time()
    # Ray Train has moved this process to a folder of its own; relative paths mean the user's.
    if os.path.isdir(config["folder"]):
        os.chdir(config["folder"])
    put_on(ray.get(mailbox.environment.remote()))
    keep_freed_memory()
    rank = int(ray.train.get_context().get_world_rank())
    logger = logging.getLogger(ROOT)
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.addHandler(MailboxHandler(mailbox, rank))
    # Only now: transformers and the stores read the environment when they are imported.
    with importing():
        import torch

        from raylora.runtime.job.job import run_job
        from raylora.runtime.pack.job import run_pack

    imported_at = time.time()
    job: Job | PackJob = ray.get(mailbox.job.remote())
    seconds = {
        "start workers": entered_at - config["asked_at"],
        "import": imported_at - entered_at,
        "wait for the driver's checks": time.time() - imported_at,
    }
    torch.set_num_threads(max(1, int(job.spec.distributed.cpus_per_worker)))
    if isinstance(job, PackJob):
        run_pack(job, mailbox, rank, seconds)
    else:
        run_job(job, mailbox, rank, seconds)
