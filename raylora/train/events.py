"""What training tells and asks of whoever started it; the only door between the loop and the outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from raylora.store.checkpoint import Checkpoint

Wish = Literal["save", "stop"]
EventKind = Literal[
    "doing", "phase", "log", "placed", "start", "step", "eval", "samples", "checkpoint", "saved", "outcome"
]


@dataclass(frozen=True)
class Event:
    """Something that happened, told by one rank: 0, or the one at home on which a run trains alone; ``log`` by any.

    Args:
        kind: ``doing`` (what the launcher begins, before there are workers), ``phase`` (a part of the start and its
            seconds), ``log`` (a line of a worker), ``placed`` (bytes of the base on each rank, data sets and what
            became of their rows, lineage), ``start`` (steps to do), ``step``, ``eval``, ``samples``, ``checkpoint``,
            ``saved`` (as was wished) or ``outcome`` (how it ended).
        step: Optimizer steps done.
        values: What is told.
        run_id: Which run of the workers it is about; filled in on the way out, empty where it is about all of them.
    """

    kind: EventKind
    step: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""


class Hooks(Protocol):
    """What the loop calls; every rank has one, and one of those that train a run speaks for it."""

    def emit(self, event: Event) -> None:
        """Tell; returns at once."""

    def wish(self) -> Wish | None:
        """What training should do after this step: save and go on, or save and end."""

    def save(self, checkpoint: Checkpoint) -> str:
        """Keep a checkpoint, in a thread beside training; returns where."""

    def fall_back(self, step: int) -> str:
        """Give up checkpoints beyond a step; returns where the newest up to it is, empty where there is none."""

    def give_up_beyond(self, step: int) -> None:
        """Give up checkpoints beyond the step that training goes on from."""
