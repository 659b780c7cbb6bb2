"""Which fault strikes next: drawn by a seed, each once before any strikes again."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tests.soak.scene import Scene, Strike, Struck


class Deck:
    """The order of faults; what finds nothing to strike keeps its place.

    Args:
        chance: Draws the order.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._order = chance, list[str]()
        self._passed_over = set[str]()

    def take_passed_over(self) -> frozenset[str]:
        """Faults whose turn came when there was nothing for them to strike, and that have not struck since.

        Returns:
            Those of the time since this was last asked.
        """
        passed_over, self._passed_over = frozenset(self._passed_over), set()
        return passed_over

    def strike(self, faults: Mapping[str, Strike], scene: Scene) -> tuple[str, Struck] | None:
        """Let the next fault strike that finds something to strike.

        Args:
            faults: By name, the same names each time.
            scene: What they may strike.

        Returns:
            The fault's name, and how to learn whether it has struck; `None` where none found anything.
        """
        if len(self._order) < len(faults):
            self._order += self._chance.sample(sorted(faults), len(faults))
        for place, name in enumerate(self._order[: len(faults)]):
            if not scene.is_under_way:
                return None
            struck = faults[name](scene)
            if struck is not None:
                del self._order[place]
                self._passed_over.discard(name)
                return name, struck
            self._passed_over.add(name)
        return None
