"""What a run leaves in its store: an adapter, or the whole model where the base itself trained. Called by the jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from raylora.adapters.publish_model import publish_model
from raylora.errors import RayloraError
from raylora.model.export import publish_adapter
from raylora.runtime.job.inputs import Inputs
from raylora.runtime.job.side_by_side import write_side_by_side
from raylora.store.contract import Store
from raylora.train.trainee import Trainee


@dataclass(frozen=True)
class ToPublish:
    """A run of a pack that is through.

    Args:
        slot: With what it trained.
        inputs: On what.
        store: The run's own store.
        about: Lineage.
    """

    slot: int
    inputs: Inputs
    store: Store
    about: Mapping[str, Any]


def publish_all(trainee: Trainee, through: Mapping[str, ToPublish]) -> Mapping[str, str | RayloraError]:
    """Write what runs of a pack have trained; a collective call of the ranks that share them.

    Args:
        trainee: With their slots.
        through: The runs.

    Returns:
        By run the URI of its folder, or why there is none; on every rank.
    """
    if trainee.spec.trains_base:
        return {name: _base_or_why(trainee, run) for name, run in through.items()}
    writes = {name: partial(_publish_slot, trainee, run) for name, run in through.items()}
    return write_side_by_side(trainee.slot_ranks, writes)


def _publish_slot(trainee: Trainee, run: ToPublish) -> str:
    return publish_adapter(run.store, trainee.export(run.slot), run.about)


def _base_or_why(trainee: Trainee, run: ToPublish) -> str | RayloraError:
    try:
        return _publish_base(trainee, run.inputs, run.store, run.about)
    except RayloraError as error:
        return error


def _publish_base(trainee: Trainee, inputs: Inputs, store: Store, about: Mapping[str, Any]) -> str:
    """Write the base that trained; a collective call, with the URI of its folder on every rank."""
    tokenizer = inputs.tokenizer if trainee.spec.chat_template is not None else None
    template = None if tokenizer is None else tokenizer.chat_template
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
        RunFailedError: The adapter is broken, or a weight of the model is.
        StoreError: It could not be kept.
    """
    if trainee.spec.trains_base:
        return _publish_base(trainee, inputs, store, about)
    return publish_adapter(store, trainee.export(0), about) if trainee.ranks.rank == 0 else None
