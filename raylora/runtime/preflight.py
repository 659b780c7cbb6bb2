"""Everything that can be known to fail before a worker starts: tracking, storage, base, targets, rows.

Called by the launcher while Ray starts, and by ``raylora validate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from raylora.data.prepare import Prepared, open_sources, prepare
from raylora.errors import together
from raylora.model.base.load import base_on_meta
from raylora.model.base.meta import read_config
from raylora.model.base.weights import Weights, check_weights
from raylora.model.rows.bins import check_bins, joins_texts
from raylora.model.source.source import BaseFolder, resolve_base
from raylora.model.targets import match_targets
from raylora.spec.run import RunSpec
from raylora.store.before_start import Checks
from raylora.store.blob import open_store
from raylora.store.contract import Store
from raylora.store.home import cache_dir, default_store_uri
from raylora.tracking.address import tracking_uri
from raylora.train.steppers import check_installed


@dataclass(frozen=True)
class Preflight:
    """What a run will use, found to be good.

    Args:
        store: The store of all runs, tried by writing.
        base: The base model on this machine.
        targets: Dotted names of the layers that get an adapter.
        prepared: The rows.
    """

    store: Store
    base: BaseFolder
    targets: list[str]
    prepared: Prepared


def preflight(spec: RunSpec) -> Preflight:
    """Try what a run will use, and tell all that is wrong at once.

    Raises:
        InputError: `tracking.uri` is no place of MLflow's, the optimizer's library is not installed, or storage cannot
            be written or read; or several of all these are wrong.
        ModelError: The base cannot be loaded, the adapter does not fit it, or it cannot keep the rows of a bin apart.
        DataError: A dataset cannot be used.
    """
    checks = Checks()
    checks.of(lambda: tracking_uri(spec.tracking))
    checks.of(lambda: check_installed(spec))
    store = checks.of(lambda: _writable_store(spec))
    base = checks.of(lambda: resolve_base(spec, cache_dir()))
    if base is None:  # without a tokenizer there are no tokens, but whether there are rows can be told
        checks.of(lambda: open_sources(spec, cache_dir()))
        raise together(checks.errors)
    targets = checks.of(lambda: _targets(spec, base))
    prepared = checks.of(lambda: prepare(spec, base.path, cache_dir()))
    if store is None or targets is None or prepared is None or checks.errors:
        raise together(checks.errors)
    return Preflight(store, base, targets, prepared)


def _writable_store(spec: RunSpec) -> Store:
    store = open_store(spec.storage.uri or default_store_uri())
    store.check_writable()
    return store


def _targets(spec: RunSpec, base: BaseFolder) -> list[str]:
    model = base_on_meta(read_config(base.path), spec, torch.float32)
    check_weights(model, Weights(base.path, model), base.path)
    targets = _peft_layers(model, spec.peft) if spec.peft is not None else match_targets(model, spec)
    if joins_texts(model, spec):
        check_bins(model, spec.sequence_len)
    return targets


def _peft_layers(model: PreTrainedModel, block: Mapping[str, Any]) -> list[str]:
    from raylora.model.bank.peft_trial import peft_trial  # seconds of import that only PEFT's own adapters need

    return peft_trial(model, block).layers
