"""One run on one rank: inputs opened, base and adapter built, the loop run, what it trained published."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict

from ray.actor import ActorHandle
from ray.train.torch import get_device

from raylora.log import get_logger
from raylora.runtime.cluster.mailbox import Job, Mailbox
from raylora.runtime.job.hooks import WorkerHooks
from raylora.runtime.job.inputs import Inputs
from raylora.runtime.job.own_fence import own_fence
from raylora.runtime.job.published import publish
from raylora.runtime.job.same_checkpoint import load_alike
from raylora.store.checkpoint import load_latest
from raylora.store.contract import Store
from raylora.store.fence import open_fenced
from raylora.store.kept import best_checkpoint
from raylora.store.runs import run_store
from raylora.train.build import build
from raylora.train.events import Event
from raylora.train.integrity import check_unchanged, checksum
from raylora.train.loop import Training
from raylora.train.memory import PeakMemory
from raylora.train.outcome import Outcome
from raylora.train.ranks import Ranks
from raylora.train.trainee import Trainee

log = get_logger(__name__)


def run_job(job: Job, mailbox: ActorHandle[Mailbox], rank: int, seconds: Mapping[str, float]) -> None:
    """Train on this rank, and tell the mailbox how it went.

    Args:
        job: The run.
        mailbox: The run's mailbox.
        rank: Of this worker.
        seconds: What the start took so far, by part.
    """
    spec, device = job.spec, get_device()
    store = run_store(open_fenced(job.store_uri, own_fence(job, "run", Ranks.current())), job.run_id)
    hooks = _RankHooks(WorkerHooks(mailbox, store, spec.storage.keep_checkpoints, job.run_id), rank)
    for name, taken in seconds.items():
        hooks.phase(name, taken)
    opened_at = time.time()
    inputs = Inputs.open(spec)
    hooks.phase("base and data", time.time() - opened_at)
    with PeakMemory(device) as load_memory:
        base = inputs.base
        trainee = build(spec, base.path, (base.name, base.revision), device, hooks.phase)
    if trainee.ranks.world_size < spec.distributed.num_workers:
        log.warning("%d of %d workers found a place", trainee.ranks.world_size, spec.distributed.num_workers)
    inputs.check_alike(trainee.ranks)
    origin = inputs.lineage(spec, job.run_id, device)
    hooks.emit(Event("placed", 0, _placement(trainee, inputs, load_memory) | {"lineage": origin}))
    before = checksum(trainee)
    training = Training(trainee, inputs.tokenizer, *inputs.batches(spec), hooks.inner, inputs.digests(spec))
    with PeakMemory(device) as train_memory:
        outcome = training.run(load_alike(trainee.ranks, lambda: load_latest(store)))
    check_unchanged(trainee, before)
    peaks = trainee.ranks.gather(train_memory.peak_bytes)
    result = _result(trainee, inputs, origin, store, outcome, peaks)
    if rank == 0:
        hooks.inner.deliver(Event("outcome", outcome.progress.step, result))


class _RankHooks:
    """Rank 0 speaks for all."""

    def __init__(self, inner: WorkerHooks, rank: int) -> None:
        self.inner, self._rank = inner, rank

    def emit(self, event: Event) -> None:
        if self._rank == 0:
            self.inner.emit(event)

    def phase(self, name: str, seconds: float) -> None:
        self.emit(Event("phase", 0, {"name": name, "seconds": seconds}))


def _placement(trainee: Trainee, inputs: Inputs, memory: PeakMemory) -> dict[str, object]:
    return {
        "strategy": trainee.strategy.name,
        "device": trainee.device.type,
        "base_bytes_per_rank": trainee.base_bytes_per_rank,
        "load_peak_bytes_per_rank": trainee.ranks.gather(memory.peak_bytes),
        "trainable_parameters": trainee.num_trainable(0),
        "datasets": inputs.uses(),
        "data": asdict(inputs.prepared.report),
    }


def _result(
    trainee: Trainee,
    inputs: Inputs,
    origin: dict[str, object],
    store: Store,
    outcome: Outcome,
    peaks: list[int],
) -> dict[str, object]:
    uris: dict[str, str | None] = {"adapter_uri": None, "best_checkpoint_uri": None}
    if outcome.ending != "stopped":
        about = origin | {"eval_loss": outcome.progress.eval_loss}
        uris["adapter_uri"] = publish(trainee, inputs, store, about)
    if trainee.ranks.rank == 0:
        uris["best_checkpoint_uri"] = best_checkpoint(store)
    return {**asdict(outcome), **uris, "ranks": trainee.ranks_left(0), "train_peak_bytes_per_rank": peaks}
