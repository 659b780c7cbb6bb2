"""Whether desirable and undesirable answers weigh about alike, as KTO asks.

Training rows and weights enter; words to warn with leave. Called by prepare.
"""

from __future__ import annotations

from raylora.data.tokens.tokenised import TokenisedRows
from raylora.spec.run import RunSpec

LEAST, MOST = 1.0, 4 / 3
"""What all desirable answers are to weigh, of what all undesirable ones do."""

ROUNDING = 0.01
"""Of a weight as people write it."""


def why_unbalanced(rows: TokenisedRows, spec: RunSpec) -> str | None:
    """Say what is wrong with the numbers of desirable and undesirable rows; ``None`` where they go with the weights.

    Args:
        rows: Training rows, rated.
        spec: The run; `kto_desirable_weight` and `kto_undesirable_weight` count.

    Source: KTO, https://arxiv.org/abs/2402.01306, equation 8.
    """
    num_desirable = int(rows.is_desirable.sum())
    num_undesirable = len(rows) - num_desirable
    if not num_desirable or not num_undesirable:
        which, other = ("undesirable", "desirable") if num_desirable else ("desirable", "undesirable")
        return (
            f"datasets: all {len(rows):,} training rows are {other} and none is {which}; KTO learns from both. Add "
            "rows with the other label, or train without rl"
        )
    wanted = spec.kto_undesirable_weight * num_undesirable / num_desirable
    if LEAST - ROUNDING <= spec.kto_desirable_weight / wanted <= MOST + ROUNDING:
        return None
    return (
        f"datasets: {num_desirable:,} desirable and {num_undesirable:,} undesirable training rows weigh "
        f"{spec.kto_desirable_weight:g} and {spec.kto_undesirable_weight:g} each; all desirable ones are best between "
        f"1 and 4/3 of all undesirable ones: set kto_desirable_weight between {LEAST * wanted:.2f} and "
        f"{MOST * wanted:.2f}, or the other one"
    )
