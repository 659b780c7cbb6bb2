"""Ranks above the smaller side of their layers, which could say no more than that side: refused in one way.

Ranks and shapes by layer enter; the message, or nothing, leaves. Called where targets are matched, also those of
GaLore's projections, and by the trial of PEFT's own adapters.
"""

from __future__ import annotations

from collections.abc import Mapping


def rank_too_large(
    field: str,
    ranks: Mapping[str, int],
    shapes: Mapping[str, tuple[int, int]],
    else_do: str = " or leave these layers out",
) -> str | None:
    """Say which layers cannot have the rank that was asked for; ``None`` where all can.

    Args:
        field: That sets the rank.
        ranks: By dotted name of a layer.
        shapes: Outputs and inputs of at least these layers.
        else_do: What can be done instead of lowering it.
    """
    small = [name for name, rank in ranks.items() if min(shapes[name]) < rank]
    if not small:
        return None
    name = min(small, key=lambda name: min(shapes[name]))
    more = f" and {len(small) - 1} more" if len(small) > 1 else ""
    outputs, inputs = shapes[name]
    return (
        f"{field}: got {ranks[name]}, above the smaller side of {name} ({outputs} x {inputs}){more}. "
        f"Allowed for these targets: at most {min(outputs, inputs)}. Lower {field}{else_do}."
    )
