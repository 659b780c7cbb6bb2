"""How many packs of each group run at once, where the groups share a cluster.

Trials of each group and the packs that it could have alone enter; numbers of packs leave. Called by `plan`.
"""

from __future__ import annotations

from collections.abc import Sequence

ROUNDING = 1e-9
"""Of sums of parts of a cluster."""


def share_out(num_trials: Sequence[int], most_packs: Sequence[int]) -> list[int]:
    """Packs of each group that run at once: one at least, and further ones where trials wait most.

    Args:
        num_trials: Of each group, as far as they may run at once; all repeats of one count once.
        most_packs: Of each group, if it had the cluster alone.
    """
    packs = [1] * len(num_trials)
    while True:
        used = sum(number / most for number, most in zip(packs, most_packs, strict=True))
        open_to = [
            index
            for index, most in enumerate(most_packs)
            if packs[index] < num_trials[index] and used + 1 / most <= 1 + ROUNDING
        ]
        if not open_to:
            return packs
        packs[max(open_to, key=lambda index: num_trials[index] / packs[index])] += 1
