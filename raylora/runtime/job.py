"""One run on one rank: inputs opened, base and adapter built, the loop run, the adapter published."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import ray
import torch
from ray.actor import ActorHandle
from ray.train.torch import get_device
from transformers import PreTrainedTokenizerFast

from raylora.data.batches import Batches, open_batches
from raylora.data.prepare import Prepared, prepare
from raylora.data.tokenizer import load_tokenizer, tokenizer_digest
from raylora.model.export import publish_adapter
from raylora.model.source import BaseFolder, resolve_base
from raylora.runtime.mailbox import Job, Mailbox, WorkerHooks
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.store.contract import Store
from raylora.store.home import cache_dir
from raylora.store.runs import run_store
from raylora.tracking.lineage import lineage
from raylora.train.build import Trainee, build
from raylora.train.events import Event
from raylora.train.integrity import check_unchanged, checksum
from raylora.train.loop import Outcome, Training
from raylora.train.memory import PeakMemory


def run_job(mailbox: ActorHandle[Mailbox], rank: int, seconds: Mapping[str, float]) -> None:
    """Wait for the job, train on this rank, and tell the mailbox how it went.

    Args:
        mailbox: The run's mailbox.
        rank: Of this worker.
        seconds: What the start took so far, by part.
    """
    waiting_since = time.time()
    job = cast(Job, ray.get(mailbox.job.remote()))
    spec, device = job.spec, get_device()
    torch.set_num_threads(max(1, int(spec.distributed.cpus_per_worker)))
    store = run_store(open_store(job.store_uri), job.run_id)
    hooks = _RankHooks(WorkerHooks(mailbox, store, spec.storage.keep_checkpoints), rank)
    for name, taken in {**seconds, "wait for the driver's checks": time.time() - waiting_since}.items():
        hooks.phase(name, taken)
    opened_at = time.time()
    inputs = Inputs.open(spec)
    hooks.phase("base and data", time.time() - opened_at)
    with PeakMemory(device) as load_memory:
        base = inputs.base
        trainee = build(spec, base.path, (base.name, base.revision), device, hooks.phase)
    origin = _origin(spec, inputs, job)
    hooks.emit(Event("placed", 0, _placement(trainee, inputs, load_memory) | {"lineage": origin}))
    before = checksum(trainee)
    training = Training(trainee, inputs.tokenizer, inputs.rows, inputs.validation, hooks.inner, inputs.digests)
    with PeakMemory(device) as train_memory:
        outcome = training.run(load_latest(store))
    check_unchanged(trainee, before)
    peaks = trainee.ranks.gather(train_memory.peak_bytes)
    result = _result(trainee, origin, store, outcome, peaks)
    if rank == 0:
        hooks.inner.deliver(Event("outcome", outcome.progress.step, result))


@dataclass(frozen=True)
class Inputs:
    """What a run reads."""

    base: BaseFolder
    prepared: Prepared
    tokenizer: PreTrainedTokenizerFast
    tokenizer_digest: str
    rows: Batches
    validation: Batches | None

    @classmethod
    def open(cls, spec: RunSpec) -> Inputs:
        """Find or make base and rows in this node's cache; one process builds, the others wait."""
        base = resolve_base(spec, cache_dir())
        prepared = prepare(spec, base.path, cache_dir())
        tokenizer = load_tokenizer(base.path, spec.chat_template)
        validation = prepared.validation
        return cls(
            base,
            prepared,
            tokenizer,
            tokenizer_digest(tokenizer),  # now: the sample prompts will change how it pads
            open_batches(spec, tokenizer, prepared.train),
            None if validation is None else open_batches(spec, tokenizer, validation),
        )

    @property
    def digests(self) -> dict[str, str]:
        """What a resumed run must meet again."""
        return {"base": self.base.digest, "data": self.prepared.report.digest}

    def uses(self) -> list[dict[str, object]]:
        """The data sets and their use, as MLflow lists them."""
        report = self.prepared.report
        return [
            {
                "name": Path(source.path).name,
                "source": source.path,
                "digest": source.digest,
                "context": context,
                "num_rows": source.num_kept,
                "num_tokens": source.num_tokens,
            }
            for context, sources in (("training", report.train), ("validation", report.validation))
            for source in sources
        ]


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
        "trainable_parameters": trainee.bank.num_parameters(0),
        "datasets": inputs.uses(),
    }


def _origin(spec: RunSpec, inputs: Inputs, job: Job) -> dict[str, object]:
    return lineage(
        spec,
        run_id=job.run_id,
        base_name=inputs.base.name,
        base_revision=inputs.base.revision,
        base_digest=inputs.base.digest,
        data_digest=inputs.prepared.report.digest,
        tokenizer_digest=inputs.tokenizer_digest,
    )


def _result(
    trainee: Trainee, origin: dict[str, object], store: Store, outcome: Outcome, peaks: list[int]
) -> dict[str, object]:
    adapter_uri = None
    if outcome.ending != "stopped" and trainee.ranks.rank == 0:
        about = origin | {"eval_loss": outcome.progress.eval_loss}
        adapter_uri = publish_adapter(store, trainee.bank.export(0), about)
    return {**asdict(outcome), "adapter_uri": adapter_uri, "train_peak_bytes_per_rank": peaks}
