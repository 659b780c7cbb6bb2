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
from raylora.runtime.mailbox import MailboxHandler


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
    os.environ.update(ray.get(mailbox.environment.remote()))
    rank = int(ray.train.get_context().get_world_rank())
    logger = logging.getLogger(ROOT)
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.addHandler(MailboxHandler(mailbox, rank))
    logging.getLogger(f"{ROOT}.data").setLevel(logging.WARNING)  # the driver has counted the rows already
    # Only now: transformers and the stores read the environment when they are imported.
    from raylora.runtime.job import run_job

    seconds = {"start workers": entered_at - config["asked_at"], "import": time.time() - entered_at}
    run_job(mailbox, rank, seconds)
