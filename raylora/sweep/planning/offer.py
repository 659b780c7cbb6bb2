"""What there is to run a sweep on: nodes, their resources and their free memory.

Read from this machine, or made of what a cluster's nodes tell; a plan is made from it alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from raylora.runtime.cluster.cluster import places

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its own limits."""


@dataclass(frozen=True)
class Free:
    """Free memory of one machine.

    Args:
        host_bytes: Within the limits of its container.
        gpu_bytes: Of the GPU that has least; 0 where there is none.
    """

    host_bytes: int
    gpu_bytes: int


@dataclass(frozen=True)
class Node:
    """One machine.

    Args:
        resources: As Ray names them: ``CPU``, ``GPU`` and others.
        host_bytes: Free memory.
        gpu_bytes: Free memory of each GPU; 0 where there is none, or none is known.
    """

    resources: Mapping[str, float]
    host_bytes: int
    gpu_bytes: int = 0


@dataclass(frozen=True)
class Offer:
    """All machines.

    Args:
        nodes: At least one.
    """

    nodes: tuple[Node, ...]

    @property
    def has_gpus(self) -> bool:
        """Whether any node has a GPU."""
        return any(node.resources.get("GPU") for node in self.nodes)

    def num_workers(self, needed: Mapping[str, float]) -> int:
        """Workers that fit at once.

        Args:
            needed: Resources of one.
        """
        return sum(self._places(needed))

    def bytes_per_worker(self, needed: Mapping[str, float], num_workers: int) -> int:
        """Free memory of the worker that gets least, when so many are spread over the nodes.

        Args:
            needed: Resources of one; with a GPU the GPU's memory counts.
            num_workers: Workers at once, at least 1.
        """
        used = [(node, count) for node, count in zip(self.nodes, self._places(needed), strict=True) if count]
        if needed.get("GPU"):
            return min((node.gpu_bytes for node, _ in used), default=0)
        # Ray may fill a node before it turns to the next one.
        shares = [node.host_bytes // min(count, num_workers) for node, count in used]
        return min(shares, default=min(node.host_bytes for node in self.nodes) // num_workers)

    def _places(self, needed: Mapping[str, float]) -> list[int]:
        return [places(dict(node.resources), dict(needed)) for node in self.nodes]


def this_machine() -> Offer:
    """What this machine has free, within the limits of its container."""
    resources = {
        "CPU": float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    }
    if torch.cuda.is_available():
        resources["GPU"] = float(torch.cuda.device_count())
    free = free_here()
    return Offer((Node(resources, free.host_bytes, free.gpu_bytes),))


def free_here() -> Free:
    """Free memory of this machine."""
    gpus = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    return Free(_free_bytes(), min(gpus, default=0))


def of_nodes(nodes: Sequence[Mapping[str, Any]], free: Mapping[str, Free]) -> Offer:
    """What a cluster has.

    Args:
        nodes: What ``ray.nodes()`` gives.
        free: By the id of the node; nodes that are not in it are passed over.
    """
    found = [(node["Resources"], free[node["NodeID"]]) for node in nodes if node["NodeID"] in free]
    return Offer(
        tuple(
            Node(resources, memory.host_bytes, memory.gpu_bytes if resources.get("GPU") else 0)
            for resources, memory in found
        )
    )


def _free_bytes() -> int:
    free = psutil.virtual_memory().available
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.exists() and used.exists() and (words := limit.read_text().strip()).isdigit():
        free = min(free, int(words) - int(used.read_text()))
    return int(free)
