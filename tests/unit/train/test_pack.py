"""A pack is its members alone: bit for bit, whatever the others do, come or go."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.train.snapshot import take
from tests.unit.train.pack_run import (
    DIGESTS,
    admit,
    assert_same_bits,
    losses_of,
    member_specs,
    place_tiny,
    state_of,
    train_all,
    turn,
)
from tests.unit.train.tiny_run import save_materials

BASES: dict[str, dict[str, object]] = {
    "plain": {},
    "nf4": {"load_in_4bit": True},
    "plain-recomputed": {"gradient_checkpointing": True},
    "nf4-recomputed": {"load_in_4bit": True, "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("pack"), 60)


@pytest.mark.parametrize("base", BASES)
def test_members_together_are_members_alone(home: Path, base: str):
    specs = member_specs(home, **BASES[base])
    together = place_tiny(specs[0])
    members = [admit(together, slot, spec, home) for slot, spec in enumerate(specs)]
    train_all(together, members)
    for member, spec in zip(members, specs, strict=True):
        trainee = place_tiny(spec)
        alone = admit(trainee, 0, spec, home)
        train_all(trainee, [alone])
        assert losses_of(member) == losses_of(alone)
        assert_same_bits(state_of(together, member), state_of(trainee, alone))


@pytest.mark.parametrize("base", ["plain", "nf4"])
def test_members_resumed_elsewhere_are_those_that_went_on(home: Path, base: str):
    """Out of one pack's checkpoints into another's slots, whatever kind of adapter is there."""
    specs = member_specs(home, **BASES[base])
    whole = place_tiny(specs[0])
    members = [admit(whole, slot, spec, home) for slot, spec in enumerate(specs)]
    for _ in range(2):
        turn(whole, members)
    checkpoints = [take(whole, member.slot, member.progress, DIGESTS) for member in members]
    train_all(whole, members)
    other = place_tiny(specs[0])
    resumed = [admit(other, len(specs) - slot, spec, home) for slot, spec in enumerate(specs)]
    for member, checkpoint in zip(resumed, checkpoints, strict=True):
        member.restore(checkpoint)
    train_all(other, resumed)
    for member, uninterrupted in zip(resumed, members, strict=True):
        told = losses_of(member)
        assert told == losses_of(uninterrupted)[-len(told) :]
        assert_same_bits(state_of(other, member), state_of(whole, uninterrupted))


def test_comings_and_goings_change_no_other_slot(home: Path):
    specs = member_specs(home)
    quiet = place_tiny(specs[0])
    alone = admit(quiet, 0, specs[0], home)
    train_all(quiet, [alone])

    busy = place_tiny(specs[0])
    watched = admit(busy, 0, specs[0], home)
    first, second = admit(busy, 1, specs[1], home), admit(busy, 2, specs[2], home)
    turn(busy, [watched, first, second])
    busy.release(1)  # stopped
    turn(busy, [watched, second])
    third = admit(busy, 1, specs[3], home)  # a trial in the freed slot
    turn(busy, [watched, second, third])
    turn(busy, [watched, third])  # the second pauses
    fourth = admit(busy, 5, specs[4], home)
    while watched.ending is None:
        turn(busy, [fourth, third, watched, second])  # and the order means nothing
    assert losses_of(watched) == losses_of(alone)
    assert_same_bits(state_of(busy, watched), state_of(quiet, alone))
