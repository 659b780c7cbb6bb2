"""What workers do after each part of their start, in words. Called by whoever shows a run or a sweep. Pure."""

from __future__ import annotations

LOADING = ("load", "quantize", "place")
"""The last parts of a start that packs share with runs alone: done in turns, and told when all is placed."""

_NEXT = {
    "start workers": "workers import torch and transformers",
    "import": "workers wait for the driver's checks",
    "wait for the driver's checks": "workers look at the base",
    "base and data": "workers make the model without its weights",
    "describe": "workers load, quantize and place the base",
}


def next_part(part: str) -> str:
    """Say what workers do after a part of their start; empty where the start is over.

    Args:
        part: Its name, as a ``phase`` event has it.
    """
    return _NEXT.get(part, "")
