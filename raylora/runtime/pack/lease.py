"""A run of a pack, as every rank knows it: where it is, and whether it may train on. Kept by the pack."""

from __future__ import annotations

from dataclasses import dataclass

from raylora.runtime.cluster.desk_messages import Admit
from raylora.train.member import Member
from raylora.train.trainee import Trainee


@dataclass
class PackLease:
    """A run and its slot.

    Args:
        admit: What it was let in with.
        slot: Its slot.
        owner: The rank that trains it alone; ``None`` where all share it.
        is_going: Whether it may train on.
        member: The run itself, on the ranks that train it.
    """

    admit: Admit
    slot: int
    owner: int | None
    is_going: bool = False
    member: Member | None = None

    def give_up(self, trainee: Trainee) -> None:
        """Give back what the run has on this rank.

        Args:
            trainee: Of the rank.
        """
        if self.member is not None:
            self.member.leave()
            self.member = None
        if self.slot in trainee.steppers:
            trainee.release(self.slot)
