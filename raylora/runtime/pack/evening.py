"""Which run moves to a rank that has none, where slots are at home on ranks: the last of the rank that has most.

Towards the end of a sweep no run comes any more, and a rank whose runs have all ended would wait for another's. Called
by a pack after every exchange with the desk, on every rank with the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Move:
    """A run and where it goes.

    Args:
        lease: Name of its lease.
        to: The rank.
    """

    lease: str
    to: int


def due_move(owners: Mapping[str, int], num_ranks: int, unmoved: Collection[str] = ()) -> Move | None:
    """Choose a move; ``None`` where every rank has a run, or none has one to spare.

    Args:
        owners: The rank of each lease, in the order in which they came.
        num_ranks: Of the pack.
        unmoved: Leases that could not be taken in elsewhere; they stay where they are.
    """
    held = Counter(owners.values())
    idle = next((rank for rank in range(num_ranks) if not held[rank]), None)
    fullest = max(range(num_ranks), key=lambda rank: (held[rank], -rank))
    if idle is None or held[fullest] < 2:
        return None
    lease = next((each for each in reversed(list(owners)) if owners[each] == fullest and each not in unmoved), None)
    return None if lease is None else Move(lease, idle)
