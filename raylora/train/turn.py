"""One turn of a pack: every member steps once, in one pass of the base, and those that are due are evaluated together.

Called by the loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from raylora.errors import NonFiniteLossError
from raylora.train.evaluate import evaluate
from raylora.train.member import Member
from raylora.train.step import train_step
from raylora.train.trainee import Trainee

Failures = dict[int, NonFiniteLossError]
"""By slot, why a member cannot go on."""


def step_all(trainee: Trainee, members: Sequence[Member]) -> Failures:
    """Let members step once.

    Args:
        trainee: The base and its slots.
        members: This rank's; every rank calls this equally often.

    Returns:
        Members whose step was none; the others have stepped.
    """
    start = perf_counter()
    shares = [member.share() for member in members]
    results = train_step(trainee, shares)
    seconds = perf_counter() - start
    failures: Failures = {}
    for member, share in zip(members, shares, strict=True):
        try:
            member.took(share, results[member.slot], seconds)
        except NonFiniteLossError as error:
            failures[member.slot] = error
    return failures


def validate_all(trainee: Trainee, members: Sequence[Member]) -> Failures:
    """Evaluate members that are due.

    Args:
        trainee: The base and its slots.
        members: This rank's; every rank calls this equally often.
    """
    due = [member for member in members if member.is_to_validate]
    found = evaluate(trainee, {member.slot: member.validation for member in due if member.validation is not None})
    failures: Failures = {}
    for member in due:
        try:
            member.validated(found[member.slot])
        except NonFiniteLossError as error:
            failures[member.slot] = error
    return failures
