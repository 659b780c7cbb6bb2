"""What is done for leases that wait: a pack is opened, an idle one is closed to make room, or they wait on.

The packs that are there, and what each kind needs, enter; a move leaves. Called by the fleet, which makes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from raylora.sweep.planning.berths import Berth


@dataclass(frozen=True)
class Opening:
    """Open a pack for the key that waits."""


@dataclass(frozen=True)
class Closing:
    """Close a pack that nobody uses.

    Args:
        pack: Its number.
    """

    pack: int


def next_move(
    key: str,
    num_lacking: int,
    berths: Mapping[str, Berth],
    packs: Mapping[int, str],
    held: Mapping[int, int],
    has_room: bool,
    may_grow: bool = False,
    without_room: Collection[int] = (),
) -> Opening | Closing | None:
    """Choose what to do for the leases of one key; ``None`` where nothing helps but time.

    Memory was looked at by the plan, for as many packs as it foresaw: free cores are no reason for more.

    Args:
        key: Of the leases that wait.
        num_lacking: Slots that they lack.
        berths: By key, of all runs so far.
        packs: Keys of the packs that are there, by number.
        held: Leases of each pack that is open; others are starting.
        has_room: Whether a pack of the key finds its workers' resources free, which no other is about to take.
        may_grow: Whether nodes may come for a pack that waits for them; as long as none does, others make room.
        without_room: Packs that start and wait for room: what is free is not for them.
    """
    berth = berths[key]
    akin = [number for number, of in packs.items() if berths[of].family == berth.family]
    is_full = len(akin) >= berth.num_packs
    starting = [number for number, of in packs.items() if of == key and number not in {*held, *without_room}]
    if not is_full and (has_room or may_grow) and num_lacking > len(starting) * berth.num_slots:
        return Opening()
    waits_for_room = any(packs[number] == key for number in without_room)
    in_the_way = akin if is_full and not waits_for_room else packs
    return next((Closing(number) for number in in_the_way if held.get(number) == 0 and packs[number] != key), None)
