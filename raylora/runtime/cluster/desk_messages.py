"""What a pack of trials and the desk say to each other: commands one way, reports the other.

Small frozen values without tensors: whatever is large lies in the store and is named here. Imported by the desk, by
whoever leases slots from it, and by rank 0 of a pack's workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raylora.spec.run import RunSpec

BEFORE_ANY_STEP = -1


@dataclass(frozen=True)
class Admit:
    """Give a slot to a lease; it does not train before its `Go`.

    Args:
        lease: Its name; no other lease ever has it.
        trial: Number of the trial it belongs to, from 0 in the order in which trials were made.
        spec: What the slot trains.
        run_id: Name in the store of what it leaves behind.
        start_from: URI of the saved slot it goes on from; from the beginning where absent.
        max_tokens: Tokens after which it has finished, whatever its steps; no limit where absent.
        up_to_step: Where it has no ``start_from``, it goes on from the newest checkpoint in its own store that is not
            beyond this step: there may be one of which nobody was told in time.
    """

    lease: str
    trial: int
    spec: RunSpec
    run_id: str
    start_from: str | None
    max_tokens: int | None = None
    up_to_step: int = BEFORE_ANY_STEP


@dataclass(frozen=True)
class Go:
    """Train on until the lease's next report."""

    lease: str


@dataclass(frozen=True)
class Save:
    """Save the slot as it is now, and report where; the pack trains on meanwhile unless somebody waits for it.

    Where it is shared, other trials may go on from it.
    """

    lease: str
    is_awaited: bool = True
    is_shared: bool = False


@dataclass(frozen=True)
class Free:
    """Give the slot up: its trial was stopped, paused or cancelled. A lease that is gone already is passed over."""

    lease: str


@dataclass(frozen=True)
class Halt:
    """Train no further, whoever was told to go: saves follow, and are to find all slots at the same turn."""


@dataclass(frozen=True)
class Close:
    """No further leases come: end."""


Command = Admit | Go | Save | Free | Halt | Close
ReportKind = Literal["metrics", "kept", "saved", "finished", "failed"]


@dataclass(frozen=True)
class Report:
    """What became of a lease's slot.

    Args:
        lease: Its name.
        kind: ``metrics`` (it waits for its `Go`), ``kept`` (there is a checkpoint of an earlier moment; ``uri``),
            ``saved`` (the answer to a `Save` that is awaited; ``uri``), ``finished`` (the last metrics and
            ``adapter_uri``) or ``failed`` (``error``). After the last two the slot is free.
        step: Optimizer steps done.
        values: What is told; metrics are ``eval_loss`` and whatever else an evaluation tells, ``train_loss`` and
            ``num_tokens``.
    """

    lease: str
    kind: ReportKind
    step: int
    values: Mapping[str, Any] = field(default_factory=dict)
