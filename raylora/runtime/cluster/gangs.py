"""Which groups of workers have their room on the connected cluster, which wait for it, and which could have it again.

What groups asked for enters; those that lack it leave. Called by the sweep, which opens packs beside one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import placement_group_table

from raylora.runtime.cluster.cluster import places, worker_resources
from raylora.spec.run import RunSpec

UNIT = 1e-4
"""Ray counts resources in such parts."""


@dataclass(frozen=True)
class Gang:
    """What a group of workers asked for.

    Args:
        needed: Resources of each worker, by Ray's names.
        fewest: Workers without which it does not start.
        most: Workers that it asks for first.
    """

    needed: Mapping[str, float]
    fewest: int
    most: int

    def could_be(self) -> bool:
        """Whether the nodes that there are could hold it if they had nothing else to do."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(places(node, dict(self.needed)) for node in nodes) >= self.fewest

    def is_like(self, bundles: Sequence[Mapping[str, float]]) -> bool:
        """Whether each of a placement group's bundles is what one of its workers asks for."""
        return all(
            bundle.keys() == self.needed.keys()
            and all(math.isclose(bundle[name], amount, abs_tol=UNIT) for name, amount in self.needed.items())
            for bundle in bundles
        )


def gang_of(spec: RunSpec) -> Gang:
    """What the workers of a run ask for if they are started now; a GPU that comes later changes it for later ones.

    Args:
        spec: The run.
    """
    place = spec.distributed
    needed = {name: amount for name, amount in worker_resources(spec).items() if amount}
    return Gang(needed, place.num_workers if place.min_workers is None else place.min_workers, place.num_workers)


def waits_for_places(gang: Gang) -> bool:
    """Whether a group of workers like this one waits for room; strangers' do not count.

    Args:
        gang: What it asked for.
    """
    return any(len(bundles) == gang.most and gang.is_like(bundles) for bundles in _own_groups("PENDING"))


def without_places(gangs: Mapping[int, Gang]) -> list[int]:
    """Of groups of workers of this driver those that lack their room; one that is being restarted does for a moment.

    Ray Train gives its groups no names, so one is known by what it asked for: where another command in this process
    has a group that is just like one that lacks its room, that one is taken for it.

    Args:
        gangs: What each asked for, by number.
    """
    placed = _own_groups("CREATED")
    found: list[int] = []
    # Those that may be of several sizes come last: what they take could be another's only size.
    for number, gang in sorted(gangs.items(), key=lambda each: each[1].most - each[1].fewest):
        sizes = range(gang.fewest, gang.most + 1)
        group = next((bundles for bundles in placed if len(bundles) in sizes and gang.is_like(bundles)), None)
        if group is None:
            found.append(number)
        else:
            placed.remove(group)
    return found


def _own_groups(state: str) -> list[list[dict[str, float]]]:
    """The bundles of each group of this driver in a state."""
    job = ray.get_runtime_context().get_job_id()  # with which the ids of its groups end
    return [
        list(group["bundles"].values())
        for name, group in placement_group_table().items()
        if name.endswith(job) and group["state"] == state
    ]
