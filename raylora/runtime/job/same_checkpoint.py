"""The checkpoint that a run goes on from: each rank loads it for itself, and before any step all hold the same.

Ranks and a way to load enter; a checkpoint leaves, the same on every rank, or the same error. Called by the jobs.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from raylora.errors import RayloraError, StoreError, UnusableStoreError
from raylora.runtime.cluster.desk_messages import BEFORE_ANY_STEP, Admit
from raylora.store.checkpoint import Checkpoint, load_checkpoint_or_next, load_latest
from raylora.store.contract import Store
from raylora.store.runs import run_store
from raylora.train.ranks import Ranks


def load_alike(ranks: Ranks, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """Load on every rank, and find out that all have the same; called on all of them.

    Args:
        ranks: Those that train together.
        load: Loads this rank's.

    Returns:
        This rank's; ``None`` where all begin anew.

    Raises:
        UnusableStoreError: Some could not read the store at all; on every rank.
        StoreError: Some hold another: a copy is damaged, or nodes do not see one store; on every rank.
    """
    found: Checkpoint | None = None
    failure: RayloraError | None = None
    try:
        found = load()
        held = "begins anew" if found is None else f"holds step {found.step} ({found.digest[:12]})"
    except RayloraError as error:
        failure = error
        held = f"cannot load one ({error})"
    is_unusable = isinstance(failure, UnusableStoreError)
    told: list[tuple[str, str, bool]] = ranks.gather((socket.gethostname(), held, is_unusable))
    for rank, (host, of_rank, cannot_read) in enumerate(told):
        if cannot_read:
            raise UnusableStoreError(f"rank {rank} on {host} {of_rank}")
    if len({of_rank for _, of_rank, _ in told}) > 1:
        each = "; ".join(f"rank {rank} on {host} {of_rank}" for rank, (host, of_rank, _) in enumerate(told))
        raise StoreError(
            f"storage.uri: the workers do not go on from the same checkpoint: {each}; storage.uri must be one folder "
            "that all nodes see, or an s3:// folder; where it is, delete the checkpoint that is damaged on some, then "
            "resume"
        )
    if failure is not None:
        raise failure
    return found


def checkpoint_of(admit: Admit, stores: Store) -> Checkpoint | None:
    """Load where a lease goes on from; ``None`` where it begins.

    Args:
        admit: What it is let in with.
        stores: The store of all runs.

    Raises:
        CorruptObjectError: All that it could go on from is not what was written.
        StoreError: The store does not answer.
    """
    if admit.start_from is not None:
        is_own = admit.start_from.startswith(f"{run_store(stores, admit.run_id).uri}/")
        return load_checkpoint_or_next(admit.start_from, stores, is_own)
    if admit.up_to_step == BEFORE_ANY_STEP:
        return None
    return load_latest(run_store(stores, admit.run_id), admit.up_to_step)
