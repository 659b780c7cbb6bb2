"""Runs that are over, with adapters of random values in the store of raylora's home."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from raylora.model.adapter.bank import Adapter
from raylora.model.export import publish_adapter
from raylora.model.source.digest import base_digest
from raylora.spec.fields.holding import word_for
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.home import cache_dir, default_store_uri
from raylora.store.runs import new_run, run_store, update_run, write_run
from tests.cluster.alone import in_one_process
from tests.unit.train.tiny_run import build_tiny, tiny_spec

ATTENTION = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Run:
    """A run that is over, as far as the store knows."""

    run_id: str
    spec: RunSpec
    uri: str


def ended(materials: Path, digest: str | None = None, base: Path | None = None, **fields: object) -> Run:
    """A run whose adapter has random values."""
    base = base or materials / "base"
    spec = tiny_spec(base, materials / "rows.jsonl", **{"val_set_size": 8, **fields})
    store = open_store(default_store_uri())
    run_id = write_run(store, new_run(spec)).run_id
    made = build_tiny(in_one_process(spec)).bank.export(0)
    draw = torch.Generator().manual_seed(spec.seed)
    tensors = {name: 0.1 * torch.randn(tensor.shape, generator=draw) for name, tensor in made.tensors.items()}
    about = {"base_digest": digest or base_digest(base, cache_dir()), "run_id": run_id}
    about["quantization"] = word_for(spec)
    uri = publish_adapter(run_store(store, run_id), Adapter(tensors, made.config), about)
    update_run(store, run_id, status="finished", result={"adapter_uri": uri})
    return Run(run_id, spec, uri)
