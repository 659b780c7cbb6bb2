"""How a run ended, as the workers tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raylora.train.snapshot import Progress

Ending = Literal["finished", "early_stopped", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Args:
        ending: All steps done, stopped by validation, or stopped on request with a checkpoint.
        progress: Where it stands.
        checkpoint_uri: The last checkpoint.
        samples_after: Answers of the trained model.
    """

    ending: Ending
    progress: Progress
    checkpoint_uri: str
    samples_after: list[str]
