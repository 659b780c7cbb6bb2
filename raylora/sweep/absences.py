"""Packs whose workers are gone and lack their places: since when, and whether anything is left that could train.

What the desk knows of packs and what the cluster holds enter. Called by the fleet, which lets trials go on elsewhere
or ends the sweep.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from raylora.log import get_logger
from raylora.runtime.cluster.gangs import Gang, without_places

log = get_logger(__name__)

COMING_S = 300.0
"""A node that was lost may come back, or another in its place: so long its workers' room on others is kept for them,
and their trials wait for them."""

GONE_S = 1800.0
"""Where nothing else trains, so long a sweep waits for nodes; on a cluster that can grow without end."""


class Absences:
    """Who is absent; looked at again and again."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._told: set[int] = set()
        self._still_since: float | None = None

    def look(self, gangs: Mapping[int, Gang], away: Collection[int], now: float) -> None:
        """Note who lacks its places at this time; workers that load the base again have theirs.

        Args:
            gangs: What each pack asked for, by number.
            away: Packs whose workers are gone, as the desk knows.
            now: By the monotonic clock, in seconds.
        """
        # Ray does not know whose a group of workers is: of packs that are alike, those at work have what there is, then
        # those that were lost last: most likely only their workers were, while nodes that are gone stay away.
        in_order = dict(sorted(gangs.items(), key=lambda each: (each[0] in away, -self._since.get(each[0], now))))
        lacking = [number for number in without_places(in_order) if number in away] if away else []
        self._since = {number: self._since.get(number, now) for number in lacking}

    def gone(self, now: float) -> list[int]:
        """Packs that have been absent for so long that nobody should wait for them any more.

        Args:
            now: As in `look`.
        """
        return [number for number, since in self._since.items() if now >= since + COMING_S]

    def forget(self, number: int) -> None:
        """Wait no more for a pack.

        Args:
            number: Of the pack, which is given up.
        """
        del self._since[number]

    def tell(self, number: int) -> None:
        """Say once of a pack that it waits for nodes.

        Args:
            number: Of the pack; no other can take its trials.
        """
        if number not in self._told:
            self._told.add(number)
            log.warning("pack %d waits for nodes in place of those that it lost; no other can take its trials", number)

    def are_final(self, is_training: bool, now: float) -> bool:
        """Whether some are absent and nothing else has trained since long ago.

        Args:
            is_training: Whether some pack that is in its places has trials, or is on its way.
            now: As in `look`.
        """
        if is_training or not self._since:
            self._still_since = None
            return False
        self._still_since = now if self._still_since is None else self._still_since
        return now >= self._still_since + GONE_S
