"""Writes of several runs at the same time: a store answers many in hardly more time than one. Called by the pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from raylora.errors import RayloraError
from raylora.train.ranks import Ranks

AT_ONCE = 8
"""Each holds the bytes of an adapter meanwhile."""


def write_side_by_side(ranks: Ranks, writes: Mapping[str, Callable[[], str]]) -> dict[str, str | RayloraError]:
    """Let one rank write; a collective call with the same answer on every rank.

    Args:
        ranks: Those that share the runs.
        writes: By run; writes, and returns where.

    Returns:
        By run the URI, or why there is none.
    """
    found: dict[str, str | RayloraError] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = {name: pool.submit(write) for name, write in writes.items()} if ranks.rank == 0 else {}
        for name in writes:
            try:
                found[name] = ranks.store(partial(_written, begun, name))
            except RayloraError as error:
                found[name] = error
    return found


def _written(begun: Mapping[str, Future[str]], name: str) -> str:
    return begun[name].result()
