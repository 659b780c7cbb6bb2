"""Faults of a node: killed, cut off, drained with notice, or without its raylet. It comes back after some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import psutil

from tests.cluster.two_hosts import NOTICE_S, Second
from tests.servers.ray import RayHead
from tests.soak.scene import Scene, Strike, Struck


def of_nodes(head: RayHead, second: Second) -> Mapping[str, Strike]:
    """Faults by name.

    Args:
        head: The cluster.
        second: Its second node.
    """
    ways = {
        "a node killed": second.die,
        "a node's link cut": second.lose_its_link,
        "a node's raylet killed alone": second.lose_its_raylet,
        f"a node drained, and killed {NOTICE_S} s later": lambda: _take_back(second),
    }
    return {name: partial(_lose, head, second, way) for name, way in ways.items()}


def _lose(head: RayHead, second: Second, way: Callable[[], None], scene: Scene) -> Struck | None:
    """It has struck when the cluster missed a node on which somebody trained."""
    if not any(_is_on(second, pid) for pid in head.workers()):
        return None
    way()
    time.sleep(scene.chance.uniform(0.0, 8.0))
    second.come()
    return lambda: 1


def _is_on(second: Second, pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return second.has(psutil.Process(pid))
    return False


def _take_back(second: Second) -> None:
    deadline = second.announce_its_end()
    time.sleep(max(0.0, deadline - time.monotonic()))
    second.die()
