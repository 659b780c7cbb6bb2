"""Checkpoints: tensors and small state at a step, for any world size and any strategy.

In comes what the training loop gathered on one rank, out comes one group of files with a manifest. Nothing here knows
how many ranks there were or how a module was sharded, and nothing is ever unpickled. Called by the training loop, and
by whoever resumes a run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from raylora import __version__
from raylora.errors import CorruptObjectError, InputError, MissingObjectError, StoreError
from raylora.log import get_logger
from raylora.store.blob import open_store
from raylora.store.contract import Store
from raylora.store.kept import EVAL_LOSS, FOLDER, SHARED, begun_steps, complete_steps, place_of, prefix_of, prune
from raylora.store.manifest import MANIFEST, publish, read_manifest, read_verified
from raylora.store.tensors import read_tensors

TENSORS, STATE = "state.safetensors", "state.json"

_log = get_logger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on from a step.

    Args:
        step: Optimizer steps done.
        tensors: Whole tensors by name: adapter, optimizer moments.
        state: Everything else, made of what JSON holds: losses, digests, and what follows from the step, to compare.
        uri: Where it was read from; empty while it is stored nowhere.
        eval_loss: Validation loss of these very weights; ``None`` where they were not validated.
        digest: SHA-256, in hexadecimal, over those of its files; empty while it is stored nowhere.
    """

    step: int
    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]
    uri: str = ""
    eval_loss: float | None = None
    digest: str = ""


def save_checkpoint(store: Store, checkpoint: Checkpoint, keep: int) -> str:
    """Store a checkpoint and delete the older ones that it makes superfluous.

    Args:
        store: The run's own store.
        checkpoint: What to keep; its tensors may live on any device and share memory.
        keep: Newest checkpoints to leave, this one among them, beside the one with the lowest validation loss; at
            least 1.

    Returns:
        The checkpoint's URI.

    Raises:
        TypeError: The state would come back from JSON as something else.
        StoreError: The store refused; no earlier checkpoint is lost.
    """
    prefix = prefix_of(checkpoint.step)
    files = {TENSORS: _tensor_bytes(checkpoint.tensors), STATE: _state_bytes(checkpoint.state)}
    about = {"step": checkpoint.step, EVAL_LOSS: checkpoint.eval_loss, "raylora": __version__}
    uri = publish(store, prefix, files, about)
    try:
        prune(store, checkpoint.step, keep)
    except StoreError as error:
        _log.warning("%s is saved, but an older checkpoint could not be deleted: %s", uri, error)
    return uri


def load_latest(store: Store, up_to: float = math.inf) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; others are passed over with a warning.

    Args:
        store: The run's own store.
        up_to: Optimizer steps done; checkpoints beyond are as good as not there.

    Returns:
        The checkpoint, its tensors on the CPU; ``None`` if the run never finished writing one up to there.

    Raises:
        CorruptObjectError: There are checkpoints and every one is corrupt: starting over is for the user to decide.
        StoreError: The store does not answer.
    """
    damage: list[CorruptObjectError] = []
    complete = [step for step in complete_steps(store) if step <= up_to]
    for step in sorted({step for step in begun_steps(store) if step <= up_to} - set(complete), reverse=True):
        _log.warning("CHECKPOINT AT STEP %d IS INCOMPLETE, without its %s; it was never finished", step, MANIFEST)
    found = _first_whole(store, reversed(complete), damage)
    if found is None and damage:
        raise CorruptObjectError(
            f"{store.uri_of(FOLDER)}: all {len(damage)} checkpoints are corrupt; restore one from a copy, or delete "
            f"this folder to start the run over. The newest: {damage[0]}"
        )
    return found


def load_checkpoint(uri: str) -> Checkpoint:
    """Return the checkpoint at a URI that `save_checkpoint` gave.

    Raises:
        MissingObjectError: It is not there, or not whole.
        CorruptObjectError: It is not what was written.
        InputError: The URI names no checkpoint.
    """
    return _load(*_place_of(uri))


def share(uri: str, store: Store) -> None:
    """Mark a checkpoint as one that other runs may go on from: it stays while the run makes another such.

    What cannot be marked is told: others go on from one before it where it is deleted.

    Args:
        uri: As `save_checkpoint` gave it.
        store: The store of all runs.
    """
    own, step = _place_of(uri, store)
    try:
        own.write(f"{prefix_of(step)}/{SHARED}", b"")
    except StoreError as error:
        _log.warning("%s could not be marked as one that other runs may go on from: %s", uri, error)


def load_checkpoint_or_next(uri: str, store: Store | None = None, is_own: bool = True) -> Checkpoint | None:
    """Return the checkpoint at a URI, or where it is gone or corrupt the next best that the run still has.

    Whoever was killed may remember one that was deleted to make room. Of those after it, the first leaves the least
    untold. One that is corrupt gives way to the newest whole one before it: what lies between is done again, and told
    to nobody who has heard of it. Of another run none after it is taken, whose steps nobody handed out.

    Args:
        uri: As `save_checkpoint` gave it.
        store: One that is open, of all runs: where the checkpoint lies in it, nothing is connected anew.
        is_own: Whether it is of the run that goes on.

    Returns:
        The checkpoint; ``None`` if the run has none that is whole, so that it begins anew.

    Raises:
        InputError: The URI names no checkpoint.
        StoreError: The store does not answer.
    """
    own, wanted = _place_of(uri, store)
    steps = [step for step in complete_steps(own) if is_own or step <= wanted]
    start = wanted if wanted in steps else next((step for step in steps if step > wanted), wanted)
    before, after = [step for step in steps if step <= start], [step for step in steps if step > start]
    found = _first_whole(own, (*reversed(before), *after), [])
    if found is None:
        _log.warning("%s is gone or corrupt, and so are all others; its run begins anew", uri)
    elif found.step != wanted:
        _log.warning("%s is gone or corrupt; its run goes on from step %d", uri, found.step)
    return found


def _place_of(uri: str, store: Store | None = None) -> tuple[Store, int]:
    """The run's own store and the step of a checkpoint's URI."""
    place = place_of(uri)
    if place is None:
        raise InputError(f"'{uri}' is no checkpoint of raylora; expected STORE/runs/RUN/{FOLDER}/step-NUMBER")
    root, step = place
    if store is not None and root.startswith(f"{store.uri}/"):
        return store.child(root.removeprefix(f"{store.uri}/")), step
    return open_store(root), step


def _first_whole(store: Store, steps: Iterable[int], damage: list[CorruptObjectError]) -> Checkpoint | None:
    """Load the first of some steps that is whole; the others are passed over with a warning and noted."""
    for step in steps:
        try:
            return _load(store, step)
        except MissingObjectError:
            continue  # deleted since it was listed
        except CorruptObjectError as error:
            _log.warning("CHECKPOINT AT STEP %d IS CORRUPT, going on from another: %s", step, error)
            damage.append(error)
    return None


def _load(store: Store, step: int) -> Checkpoint:
    prefix = prefix_of(step)
    manifest = read_manifest(store, prefix)
    if manifest.about.get("step") != step:
        raise CorruptObjectError(f"{store.uri_of(prefix)}: it is of step {manifest.about.get('step')}; restore its own")
    try:
        tensors = read_tensors(read_verified(store, prefix, TENSORS, manifest))
        state = dict(json.loads(read_verified(store, prefix, STATE, manifest)))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptObjectError(f"{store.uri_of(prefix)}: not a checkpoint of raylora ({error})") from error
    digests = "".join(manifest.files[name].sha256 for name in (TENSORS, STATE))
    digest = hashlib.sha256(digests.encode()).hexdigest()
    return Checkpoint(step, tensors, state, store.uri_of(prefix), digest=digest)


def _tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    # safetensors refuses tensors that share memory, such as views of one flat buffer.
    plain, seen = dict[str, torch.Tensor](), set[int]()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu()
        memory = here.untyped_storage()
        is_shared = memory.nbytes() > here.nbytes or memory.data_ptr() in seen
        seen.add(memory.data_ptr())
        plain[name] = here.clone(memory_format=torch.contiguous_format) if is_shared else here.contiguous()
    return safetensors.torch.save(plain)


def _state_bytes(state: Mapping[str, Any]) -> bytes:
    text = json.dumps(dict(state), indent=1)
    if json.loads(text) != state:
        raise TypeError("a checkpoint's state must come back from JSON as it was: text keys, no tuples, no NaN")
    return text.encode()
