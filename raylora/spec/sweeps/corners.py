"""Some of the configurations of a space: all combinations of a few values, or all pairs where there are too many.

Values by knob enter, configurations leave. Called by the check of a space and by the sweep's planner.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_COMBINATIONS = 2_000
"""More are not tried; pairs find what one knob does to another."""


def corners(
    values: Mapping[str, Sequence[Any]], paired: Sequence[str]
) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Yield configurations, each with the knobs that were moved away from their first values on purpose.

    Args:
        values: By knob; nothing is yielded where a knob has none.
        paired: Knobs that are moved, two at a time, where there are too many combinations.
    """
    combinations = (dict(zip(values, each, strict=True)) for each in itertools.product(*values.values()))
    first = list(itertools.islice(combinations, MAX_COMBINATIONS + 1))
    if len(first) <= MAX_COMBINATIONS:
        yield from ((combination, ()) for combination in first)
        return
    start = {name: each[0] for name, each in values.items()}
    for pair in itertools.combinations(paired, 2):
        for moved in itertools.product(*(values[name] for name in pair)):
            yield start | dict(zip(pair, moved, strict=True)), pair
