"""Which checkpoints of a run are there, which are kept, and which go.

Enters: the run's own store, and a step. A checkpoint is one folder for each step; it is there once it has its manifest.
Called by `checkpoint`, and by whoever goes on from one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from raylora.errors import CorruptObjectError, MissingObjectError, StoreError
from raylora.log import get_logger
from raylora.store.contract import Store
from raylora.store.manifest import MANIFEST, discard, read_manifest

FOLDER = "checkpoints"
EVAL_LOSS = "eval_loss"
"""What a manifest calls the validation loss of the very weights beside it."""

_log = get_logger(__name__)


SHARED, NUM_SHARED = "shared", 2
"""A mark beside a checkpoint from which other runs may go on, and how many such a run keeps: it makes the next but one
only when those that go on from this one have it."""


def prefix_of(step: int) -> str:
    """Folder of the checkpoint at a step, in the run's own store."""
    return f"{FOLDER}/step-{step:08d}"


def place_of(uri: str) -> tuple[str, int] | None:
    """URI of the run's own store and step of a checkpoint's URI; ``None`` where it is none.

    Args:
        uri: As `save_checkpoint` gave it.
    """
    match = re.fullmatch(rf"(.+)/{FOLDER}/step-(\d+)", uri)
    return None if match is None else (match[1], int(match[2]))


def complete_steps(store: Store) -> list[int]:
    """Steps whose checkpoints have their manifests, in order."""
    return sorted(_steps(store, re.escape(MANIFEST)))


def begun_steps(store: Store) -> set[int]:
    """Steps of which there is anything at all."""
    return _steps(store, ".+")


def best_checkpoint(store: Store) -> str | None:
    """Return the URI of the kept checkpoint with the lowest validation loss, the earliest of several.

    Args:
        store: The run's own store.

    Returns:
        The URI; ``None`` where no checkpoint was validated.

    Raises:
        StoreError: The store does not answer.
    """
    best = _best(store, complete_steps(store))
    return None if best is None else store.uri_of(prefix_of(best))


def prune(store: Store, step: int, keep: int) -> None:
    """Delete what is before a step, but for the newest up to it, the best of them, and the last that it shares.

    What is beyond it stays: whoever was cut off and writes on deletes nothing of those who went on meanwhile.

    Args:
        store: The run's own store.
        step: Of the checkpoint that was just written.
        keep: Newest checkpoints to leave, that one among them; at least 1.

    Raises:
        StoreError: The store refused.
    """
    complete = [found for found in complete_steps(store) if found <= step]
    shared = sorted(found for found in _steps(store, SHARED) if found <= step)
    kept = {*complete[-keep:], _best(store, complete), *shared[-NUM_SHARED:]}
    for found in sorted(begun_steps(store)):
        if found < step and found not in kept:
            discard(store, prefix_of(found))


def give_up_beyond(store: Store, step: int) -> None:
    """Delete the checkpoints beyond the step that a run goes on from: a future that it will not have.

    What cannot be deleted stays, and is told: the run goes on.

    Args:
        store: The run's own store.
        step: Optimizer steps done.
    """
    try:
        _discard_beyond(store, step)
    except StoreError as error:
        _log.warning("%s: checkpoints beyond step %d could not be deleted: %s", store.uri_of(FOLDER), step, error)


def fall_back(store: Store, step: int) -> str:
    """Delete the checkpoints beyond a step, so that the run goes on from the newest up to it.

    Where there is none up to it, nothing is deleted: one that is in doubt is better than none.

    Args:
        store: The run's own store.
        step: Optimizer steps done.

    Returns:
        URI of the checkpoint that the run goes on from; empty where there is none up to the step.

    Raises:
        StoreError: The store does not answer.
    """
    good = [found for found in complete_steps(store) if found <= step]
    if not good:
        return ""
    _discard_beyond(store, good[-1])
    return store.uri_of(prefix_of(good[-1]))


def _discard_beyond(store: Store, step: int) -> None:
    for found in sorted(begun_steps(store)):
        if found > step:
            discard(store, prefix_of(found))


def _best(store: Store, steps: Iterable[int]) -> int | None:
    losses = {step: loss for step in steps if (loss := _eval_loss(store, step)) is not None}
    return min(losses, key=lambda step: (losses[step], step), default=None)


def _eval_loss(store: Store, step: int) -> float | None:
    try:
        loss = read_manifest(store, prefix_of(step)).about.get(EVAL_LOSS)
    except (MissingObjectError, CorruptObjectError):  # whoever loads it says so
        return None
    return loss if isinstance(loss, float) else None


def _steps(store: Store, name: str) -> set[int]:
    """Steps of which there is a file of that name, a regular expression."""
    pattern = re.compile(rf"{FOLDER}/step-(\d+)/{name}")
    return {int(match[1]) for key in store.keys(FOLDER) if (match := pattern.fullmatch(key))}
