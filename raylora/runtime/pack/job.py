"""What each worker of a pack does: place the base, try how many slots are fast, and train what the desk gives out.

Called by the worker.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import ray
from ray.actor import ActorHandle
from ray.train.torch import get_device

from raylora.model.source.source import resolve_base
from raylora.runtime.cluster.mailbox import Mailbox, PackJob
from raylora.runtime.job.inputs import check_same_base
from raylora.runtime.job.whose_fault import faulted_alone
from raylora.runtime.pack.pack import Pack
from raylora.store.blob import open_store
from raylora.store.home import cache_dir
from raylora.train.build import place_base
from raylora.train.events import Event
from raylora.train.integrity import check_unchanged, checksum


def run_pack(job: PackJob, mailbox: ActorHandle[Mailbox], rank: int, seconds: Mapping[str, float]) -> None:
    """Train whatever the desk gives out, until it closes.

    Args:
        job: The pack.
        mailbox: Of the workers.
        rank: Of this worker.
        seconds: What the start took so far, by part.
    """

    def report(name: str, taken: float) -> None:
        if rank == 0:
            mailbox.put.remote(Event("phase", 0, {"name": name, "seconds": taken}))

    for part, taken in seconds.items():
        report(part, taken)
    with faulted_alone(open_store(job.store_uri)):
        base = resolve_base(job.spec, cache_dir())
    device = get_device()
    base_name = (base.name, base.revision)
    trainee = place_base(job.spec, base.path, base_name, device, report, job.slots_stay_on_ranks)
    trainee.train_mode(True)
    check_same_base(trainee.ranks, base)
    before = checksum(trainee)
    pack, start = Pack(job, mailbox, trainee), time.monotonic()
    num_slots = pack.width()
    report("calibrate", time.monotonic() - start)
    if rank == 0:
        ray.get(job.desk.open_pack.remote(job.pack, pack.group, job.key, num_slots))
    pack.run()
    check_unchanged(trainee, before)
