"""What a run leaves in its store: an adapter, or the whole model where the base itself trained. Called by the jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylora.adapters.publish_model import publish_model
from raylora.model.export import publish_adapter
from raylora.runtime.inputs import Inputs
from raylora.store.contract import Store
from raylora.train.trainee import Trainee


def publish_base(trainee: Trainee, inputs: Inputs, store: Store, about: Mapping[str, Any]) -> str:
    """Write the base that trained; a collective call.

    Args:
        trainee: Of a run with `adapter: full`.
        inputs: What it was trained on.
        store: The run's own store.
        about: Lineage.

    Returns:
        The URI of its folder, on every rank.

    Raises:
        StoreError: It is broken, or could not be kept; on every rank.
    """
    template = inputs.tokenizer.chat_template if trainee.spec.chat_template is not None else None
    return publish_model(store, trainee, inputs.base.path, about, template)


def publish(trainee: Trainee, inputs: Inputs, store: Store, about: Mapping[str, Any]) -> str | None:
    """Write what the run in slot 0 trained; a collective call.

    Args:
        trainee: What was trained.
        inputs: On what.
        store: The run's own store.
        about: Lineage.

    Returns:
        The URI of its folder, on rank 0.

    Raises:
        RunFailedError: The adapter is broken.
        StoreError: It could not be kept.
    """
    if trainee.spec.trains_base:
        return publish_base(trainee, inputs, store, about)
    return publish_adapter(store, trainee.export(0), about) if trainee.ranks.rank == 0 else None
