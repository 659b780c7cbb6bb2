"""The turnstile by which plain Ray Tune is held against ours: what passes it, in which order, has nothing of luck."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.cluster.plain_tune import Turnstile

REPORTS = (3, 1, 2, 1, 1)
"""Of each trial, until it is stopped."""

PATIENCE_S = 30.0


async def passed(starts: Sequence[int], num_places: int) -> list[tuple[int, int]]:
    """Trials and their reports as they pass, where trials come in an order of their own."""
    turnstile, seen = Turnstile(len(REPORTS), num_places), list[tuple[int, int]]()

    async def trial(number: int) -> None:
        for report in range(1, REPORTS[number] + 1):
            await turnstile.report(number)
            seen.append((number, report))
        await turnstile.leave(number)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        for number in starts:
            group.create_task(trial(number))
            await asyncio.sleep(0)  # it stands in line before the next one comes
    return seen


@pytest.mark.parametrize("starts", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (0, 1, 4, 2, 3), (3, 0, 4, 1, 2)])
def test_the_first_that_are_left_have_the_places_whoever_comes_first(starts: tuple[int, ...]):
    turns = [[(0, 1), (1, 1)], [(0, 2), (2, 1)], [(0, 3), (2, 2)], [(3, 1), (4, 1)]]
    assert asyncio.run(passed(starts, num_places=2)) == [each for turn in turns for each in turn]
