"""Sweeps that lose their worker, and what is told and left then."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

import psutil

from raylora.store.blob import open_store
from tests.cluster.command import Ended, Running, wait_until
from tests.cluster.made_sweeps import num_saved
from tests.servers.ray import RayHead

NOTHING = {"actors": [], "groups": []}
UNDER_WAY = "t001 failed"
"""Said at the second step, when the others have many to go."""
AGAIN_FROM_THE_BEGINNING = "and goes on from step 0"
"""Said of a trial that had come farther."""


def workers(ray_head: RayHead) -> list[int]:
    """Those that have begun to train, by process id."""
    return [pid for pid, env in ray_head.seen_by_workers().items() if "RANK" in env]


def kill_the_worker(ray_head: RayHead) -> None:
    (pid,) = workers(ray_head)
    assert psutil.Process(pid).is_running()
    os.kill(pid, signal.SIGKILL)


def next_workers(ray_head: RayHead, but: set[int], number: int = 2) -> dict[str, int]:
    """Those that train next, once all of a group are there: process ids by rank."""

    def found() -> dict[str, int]:
        seen = ray_head.seen_by_workers().items()
        return {env["RANK"]: pid for pid, env in seen if "RANK" in env and pid not in but}

    wait_until(lambda: len(found()) == number, 120)
    return found()


def check_as_before(ray_head: RayHead, before: dict[str, Any], ended: Ended) -> None:
    """Nobody of the command is there any more, on the cluster or beside it."""
    assert ended.left_behind == (), f"left behind: {ended.left_behind}"
    with suppress(TimeoutError):
        wait_until(lambda: ray_head.in_use() == before and ray_head.census() == NOTHING, 60)
    in_use, census = ray_head.in_use(), ray_head.census()
    assert in_use == before, f"{in_use} instead of {before}"  # the soak shows it, where nothing rewrites asserts
    assert census == NOTHING, str(census)


def wait_for_saves(running: Running, store: str) -> None:
    """Until each of the three trials that train has saves to go on from."""
    running.wait_for(UNDER_WAY)
    wait_until(lambda: num_saved(open_store(store), since=12) == 3, 120)
