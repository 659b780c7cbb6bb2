"""How many slots a pack offers: those planned, or fewer where the base takes one, or this machine is faster so.

A pack's job and its placed base enter; a number of slots leaves, the same on every rank. Called by the pack before it
opens.
"""

from __future__ import annotations

import math

from raylora.log import get_logger
from raylora.runtime.cluster.mailbox import PackJob
from raylora.runtime.job.inputs import Inputs
from raylora.runtime.pack.open_inputs import OpenInputs
from raylora.spec.fields.repeats import whole_trials
from raylora.train.calibrate import calibrate
from raylora.train.trainee import Trainee

log = get_logger(__name__)


def offered_slots(job: PackJob, trainee: Trainee, opened: OpenInputs) -> int:
    """As `pack_width`. Rows that cannot be read end no pack: they are some trial's, and others may come.

    Args:
        job: The pack.
        trainee: The placed base, without slots.
        opened: Inputs of the pack's runs.

    Raises:
        InputError: The ranks read other rows than each other.
    """
    if why := opened.why_unreadable(job.spec, trainee.ranks):
        if trainee.ranks.rank == 0:
            log.warning("pack %d: no widths are tried, since rows cannot be read: %s", job.pack, why)
        return pack_width(job, trainee, None)
    inputs = opened.of(job.spec)
    inputs.check_same_rows(trainee.ranks)
    return pack_width(job, trainee, inputs)


def pack_width(job: PackJob, trainee: Trainee, inputs: Inputs | None) -> int:
    """Try a few widths with the first rows of the data, where the job asks for it; a collective call.

    Args:
        job: The pack; its spec is as large as any run that will come.
        trainee: The placed base, without slots; one that takes one at a time is not tried.
        inputs: Of the pack's spec; without them nothing is tried.
    """
    num_ranks = trainee.ranks.world_size if job.slots_stay_on_ranks else 1
    if trainee.why_one_slot is not None:  # known only now where a row's length decides
        return min(job.num_slots, num_ranks)
    most = math.ceil(job.num_slots / num_ranks)
    if most == 1 or not job.calibrates or inputs is None:
        return job.num_slots
    specs = [job.spec, *job.likely]
    if trainee.why_not_binned is not None:  # runs that bin are refused, and those that come do not
        specs = [spec.model_copy(update={"sample_packing": False}) for spec in specs]
    spec, likely = specs[0], specs[1:] or specs
    mine = likely[trainee.ranks.rank % num_ranks :: num_ranks] or likely
    rows, _ = inputs.batches(spec)
    batch = rows.step(0, trainee.ranks.rank, trainee.ranks.world_size)[0]
    num_steps = spec.max_steps or rows.num_steps(spec.num_epochs)
    found = calibrate(trainee, mine, batch, most, num_steps * spec.gradient_accumulation_steps)
    num_slots = whole_trials(min(job.num_slots, found.num_slots * num_ranks), job.repeats)
    if trainee.ranks.rank == 0:
        rates = ", ".join(f"{width * num_ranks}: {rate:,.0f}" for width, rate in found.tokens_per_s.items())
        log.info("pack %d: %d of %d slots; tokens/s by slots %s", job.pack, num_slots, job.num_slots, rates)
    return num_slots
