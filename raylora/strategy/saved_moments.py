"""Whose moments a saved state holds: an optimizer that takes up another's would miss its own at the next step.

A state by ``<moment>.<parameter>`` enters; it is let pass, or refused. Called by the steppers.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from raylora.errors import StoreError
from raylora.strategy.contract import MASTER, MOMENTS

OF_BITSANDBYTES = ("state1", "state2")
"""Its names for AdamW's moments."""

_WHOSE: dict[tuple[str, ...], str] = {MOMENTS: "torch's AdamW", OF_BITSANDBYTES: "bitsandbytes' AdamW"}


def check_moments(state: Mapping[str, Tensor], wanted: tuple[str, ...] = MOMENTS) -> None:
    """Find out that a saved state holds the moments that an optimizer here keeps; one of no step holds none.

    Args:
        state: As `Stepper.state` gave it.
        wanted: Names of the moments here.

    Raises:
        StoreError: They are another optimizer's.
    """
    kinds = {key.partition(".")[0] for key in state if "." in key}
    found = tuple(sorted(kinds - {MASTER}))
    if found and found != wanted:
        raise StoreError(
            f"checkpoint: its optimizer's moments are {_named(found)}; wanted here: {_named(wanted)}. An optimizer "
            "that pages runs as torch's AdamW where there is no CUDA device, and so did adamw_bnb_8bit in earlier "
            "versions: resume on devices of the kind that the checkpoint was made on, or start a new run"
        )


def _named(moments: tuple[str, ...]) -> str:
    return f"{_WHOSE.get(moments, 'those of an optimizer that is not known')} ({', '.join(moments)})"
