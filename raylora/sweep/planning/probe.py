"""What the cluster of a sweep has to offer: Ray tells each node's resources, and a task there its free memory.

The connected cluster, or the address of one, enters; an offer leaves. Called by whoever plans.
"""

from __future__ import annotations

import os

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylora.log import get_logger
from raylora.runtime.cluster.cluster import address_of, cluster
from raylora.runtime.cluster.failures import gist
from raylora.spec.run import RunSpec
from raylora.sweep.planning.offer import Free, Offer, free_here, of_nodes, this_machine

log = get_logger(__name__)

PATIENCE_S = 60.0
"""For a node to start a process that imports torch."""

NO_GPU = "CUDA_VISIBLE_DEVICES"
"""Ray empties it where a task reserves no GPU."""


def offer_for(spec: RunSpec) -> Offer:
    """What there is where a run would go: the cluster at its address, or this machine. Nothing is left there.

    Args:
        spec: `ray.address` counts.

    Raises:
        InputError: No cluster answers at the address.
    """
    if address_of(spec) == "local":
        return this_machine()
    with cluster(spec):
        return connected()


def connected() -> Offer:
    """What the connected cluster has; nodes that do not answer are passed over.

    Memory that Ray itself knows of is what a node was started with, and it knows nothing of its GPUs'.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return of_nodes(nodes, {nodes[0]["NodeID"]: free_here()})
    asked = {node["NodeID"]: _ask(node["NodeID"]) for node in nodes}
    free: dict[str, Free] = {}
    for node, answer in asked.items():
        try:
            free[node] = ray.get(answer, timeout=PATIENCE_S)
        except RayError as error:
            log.warning("a node does not tell what memory is free, and no pack is planned there: %s", gist(error))
    return of_nodes(nodes, free)


def _ask(node: str) -> ray.ObjectRef[Free]:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    # One call a process: what it needs of a GPU to look at it is given back.
    task = ray.remote(num_cpus=0, max_calls=1)(_free_there)
    answer: ray.ObjectRef[Free] = task.options(scheduling_strategy=there).remote()
    return answer


def _free_there() -> Free:
    if not os.environ.get(NO_GPU):
        os.environ.pop(NO_GPU, None)
    return free_here()
