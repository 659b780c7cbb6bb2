"""How many workers a group has that shrinks and grows with its cluster. Called by Ray Train's controller.

Ray Train asks again and again; a number of workers leaves. Before a group that trains gets another size, the run is
saved: what is computed twice are the steps of the moment that it takes to end the workers.
"""

from __future__ import annotations

import time
from collections.abc import Container
from typing import cast

import ray
from ray._private import state
from ray.actor import ActorHandle
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision
from ray.train.v2.api.config import ScalingConfig
from typing_extensions import override

from raylora.runtime.cluster.as_asked import LOOK_S, UNANSWERED, AsAsked, draining_nodes, log
from raylora.runtime.cluster.cluster import free_places
from raylora.runtime.cluster.mailbox import Mailbox

SETTLE_S = 10.0
"""For so long a group waits for more workers than there is room for; nodes may be on their way."""

WAIT_S = 0.5
"""Between two looks while there are too few places; Ray Train itself would ask without pause."""


class Elastic(AsAsked):
    """As many workers as there is room for, between the fewest and as many as asked.

    Args:
        scaling: Ray Train's words for the most workers, and for what each reserves.
        fewest: Where there is no room for these, Ray waits for it, and a cluster that grows is asked to.
        mailbox: Takes the wish to save.
    """

    def __init__(self, scaling: ScalingConfig, fewest: int, mailbox: ActorHandle[Mailbox]) -> None:
        super().__init__(scaling, mailbox)
        self._fewest = fewest
        self._needed: dict[str, float] = scaling._resources_per_worker_not_none
        self._short_since: float | None = None
        self._saves_before: int | None = None

    @override
    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start as many as there is room for; fewer than asked only after a while."""
        room = self._room()
        if room < self._most:
            self._short_since = self._short_since or time.monotonic()
            if time.monotonic() - self._short_since < SETTLE_S:
                time.sleep(WAIT_S)
                return NoopDecision()
        return self._resize(max(self._fewest, room))

    @override
    def _decide(self, leaving: dict[str, int]) -> ScalingDecision:
        """Grow into places that have become free, and leave nodes that are about to be taken away."""
        staying = self._staying(leaving)
        size = min(self._most, len(staying) + len(free_places(self._needed, leaving)))
        is_better = size > len(self._nodes) or (len(staying) < len(self._nodes) and size >= self._fewest)
        if not is_better:
            self._saves_before = None
            return NoopDecision()
        return self._resize(size) if self._is_saved() else NoopDecision()

    @property
    @override
    def _look_s(self) -> float:
        return LOOK_S if self._saves_before is None else 0.0  # once it is saved, every step is one to do again

    @property
    def _most(self) -> int:
        return cast("int", self.scaling_config.num_workers)

    def _room(self) -> int:
        """Places for workers that are not there yet; none where the cluster does not answer."""
        try:
            leaving = draining_nodes()
            return len(self._staying(leaving)) + len(free_places(self._needed, leaving))
        except UNANSWERED as error:
            log.warning("the cluster could not be looked at: %s", error)
            return 0

    def _staying(self, leaving: Container[str]) -> list[str]:
        """Of the places of the last workers, which Ray Train holds until there are new ones, those that are left."""
        alive = state.available_resources_per_node()
        return [node for node in self._nodes if node in alive and node not in leaving]

    def _is_saved(self) -> bool:
        """Whether the run was saved since this was first asked."""
        if self._saves_before is None:
            self._saves_before = cast("int", ray.get(self._mailbox.ask_save.remote()))
        return cast("int", ray.get(self._mailbox.num_saves.remote())) > self._saves_before

    def _resize(self, size: int) -> ResizeDecision:
        self._short_since = self._saves_before = None
        self._nodes = []
        return ResizeDecision(min(self._most, size), self._needed)
