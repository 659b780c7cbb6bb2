"""A pack is its members alone: bit for bit, whatever the others do, come or go."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from raylora.train.member import Member
from raylora.train.schedule import learning_rate
from raylora.train.trainee import Trainee
from raylora.train.turn import step_all, validate_all
from tests.unit.train.pack_run import (
    EVERY,
    FEW,
    MIXED,
    ON_INT8,
    QUANTIZED,
    admit,
    assert_same_bits,
    losses_of,
    member_specs,
    place_tiny,
    state_of,
    train_all,
    turn,
)
from tests.unit.train.tiny_run import open_rows, save_materials

BASES: dict[str, dict[str, object]] = {
    "plain": {},
    "nf4": {"load_in_4bit": True},
    "plain-recomputed": {"gradient_checkpointing": True},
    "nf4-recomputed": {"load_in_4bit": True, "gradient_checkpointing": True},
    "int8": {"load_in_8bit": True},
}
BFLOAT16_LOSS = 2e-2
"""How far losses in bfloat16 may lie apart."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("pack"), 60, num_hidden_layers=2)


def members_on(base: str) -> Sequence[dict[str, Any]]:
    """Of every sort, where that does not take too long."""
    if base == "int8":
        return ON_INT8
    return (*(FEW if base.endswith("recomputed") else EVERY), *(QUANTIZED if base.startswith("nf4") else ()))


def together_and_alone(
    home: Path, members: Sequence[dict[str, Any]], **fields: object
) -> Iterator[tuple[Trainee, Member, Trainee, Member]]:
    """Each member at its end in a pack of all, and in one of its own."""
    specs = member_specs(home, members, **fields)
    together = place_tiny(specs[0])
    admitted = [admit(together, slot, spec, home) for slot, spec in enumerate(specs)]
    train_all(together, admitted)
    for member, spec in zip(admitted, specs, strict=True):
        trainee = place_tiny(spec)
        alone = admit(trainee, 0, spec, home)
        train_all(trainee, [alone])
        yield together, member, trainee, alone


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_members_together_are_members_alone(home: Path, base: str):
    for together, member, trainee, alone in together_and_alone(home, members_on(base), **BASES[base]):
        assert losses_of(member) == losses_of(alone)
        assert_same_bits(state_of(together, member), state_of(trainee, alone))


@pytest.mark.slow
def test_members_together_are_members_alone_in_bfloat16(home: Path):
    """To its rounding: kernels may sum in another order for more rows."""
    for _, member, _, alone in together_and_alone(home, FEW, dtype="bfloat16", load_in_4bit=True):
        told, wanted = (losses_of(each, ["train_loss", "eval_loss"]) for each in (member, alone))
        assert told == pytest.approx(wanted, abs=BFLOAT16_LOSS)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["plain", "nf4"])
def test_members_resumed_elsewhere_are_those_that_went_on(home: Path, tmp_path: Path, base: str):
    """Out of a store into other slots, beside others, with blocks that run again; whatever kind of adapter it is."""
    specs = member_specs(home, (*EVERY, *(QUANTIZED if base == "nf4" else ())), **BASES[base])
    whole = place_tiny(specs[0])
    members = [admit(whole, slot, spec, home, tmp_path / f"run{slot}") for slot, spec in enumerate(specs)]
    for _ in range(2):
        turn(whole, members)
    for member in members:
        member.save()
    train_all(whole, members)
    for begin in range(2):  # half of them in one pack, half in another
        other = place_tiny(member_specs(home, **BASES[f"{base}-recomputed"])[0])
        newcomer = admit(other, 99, specs[0], home)
        turn(other, [newcomer])
        half = members[begin::2]
        resumed = [admit(other, len(specs) - member.slot, member.spec, home, None, member.settle()) for member in half]
        train_all(other, [newcomer, *resumed])
        for member, uninterrupted in zip(resumed, half, strict=True):
            told = losses_of(member)
            assert told == losses_of(uninterrupted)[-len(told) :]
            assert len(losses_of(member, ["train_loss"])) == member.num_steps - 2
            assert_same_bits(state_of(other, member), state_of(whole, uninterrupted))


@pytest.mark.parametrize("base", ["plain", pytest.param("nf4", marks=pytest.mark.slow)])
def test_comings_and_goings_change_no_other_slot(home: Path, base: str):
    specs = member_specs(home, **BASES[base])
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


def tensor_bytes() -> int:
    """Bytes of all tensors that anything in this process refers to, those that share storage once."""
    gc.collect()
    storages = [each.untyped_storage() for each in gc.get_objects() if issubclass(type(each), Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.slow
def test_twenty_stopped_trials_leave_no_byte(home: Path):
    specs = member_specs(home, MIXED[:4])
    trainee = place_tiny(specs[0])
    held = []
    for _ in range(5):
        for slot, spec in enumerate(specs):
            turn(trainee, [admit(trainee, slot, spec, home)])
            trainee.release(slot)
        held.append(tensor_bytes())
    assert held == [held[0]] * 5


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("base", ["plain", "nf4"])
def test_twenty_trials_stopped_beside_them_change_no_other_slot(home: Path, base: str):
    """Three stay; at every turn one comes and one is stopped, of every kind, each after three steps."""
    specs = member_specs(home, **BASES[base], max_steps=23)
    chosen = (0, 2, 8)  # plain, with dropout, DoRA with dropout
    busy = place_tiny(specs[0])
    watched = [admit(busy, slot, specs[number], home) for slot, number in enumerate(chosen)]
    others = [spec for number, spec in enumerate(specs) if number not in chosen]
    beside: list[Member] = []
    num_stopped = 0
    while any(member.ending is None for member in watched):
        if others:
            taken = {member.slot for member in (*watched, *beside)}
            beside.append(admit(busy, min(set(range(9)) - taken), others.pop(), home))
        turn(busy, [*beside, *watched])
        if beside and beside[0].progress.step == 3:
            busy.release(beside.pop(0).slot)
            num_stopped += 1
    assert num_stopped == 20
    for member in watched:
        quiet = place_tiny(member.spec)
        alone = admit(quiet, 0, member.spec, home)
        train_all(quiet, [alone])
        assert losses_of(member) == losses_of(alone)
        assert_same_bits(state_of(busy, member), state_of(quiet, alone))


@pytest.mark.parametrize("bank", ["packed", "peft"])
def test_a_run_that_follows_its_like_in_a_slot_starts_anew(home: Path, tmp_path: Path, bank: str):
    """Searchers draw a configuration twice; and one that was saved goes on from there, whoever had the slot since."""
    (spec,) = member_specs(home, [{"adapter_bank": bank, "use_dora": True, "lora_dropout": 0.2}])
    trainee = place_tiny(spec)
    first = admit(trainee, 0, spec, home, tmp_path)
    turn(trainee, [first])
    first.save()
    train_all(trainee, [first])
    wanted = state_of(trainee, first)
    for start_from in (None, first.settle()):
        trainee.release(0)
        member = admit(trainee, 0, spec, home, start_from=start_from)
        train_all(trainee, [member])
        told = losses_of(member)
        assert told == losses_of(first)[-len(told) :]
        assert_same_bits(state_of(trainee, member), wanted)


def test_a_budget_in_tokens_ends_a_run_and_its_schedule(home: Path):
    (spec,) = member_specs(home, [{"max_steps": 6, "lr_scheduler": "cosine"}])
    trainee = place_tiny(spec)
    whole = admit(trainee, 0, spec, home)
    tokens = []
    while whole.ending is None:
        turn(trainee, [whole])
        tokens.append(whole.progress.num_tokens)
    trainee.release(0)
    member = admit(trainee, 0, spec, home, max_tokens=tokens[2] - 1)
    train_all(trainee, [member])
    assert (member.ending, member.progress.step, member.progress.num_tokens) == ("finished", 3, tokens[2])
    assert losses_of(member, ["learning_rate"]) == [learning_rate(spec, step, 3) for step in range(3)]


@pytest.mark.parametrize("base", ["plain", pytest.param("nf4", marks=pytest.mark.slow)])
def test_a_clone_goes_on_from_its_donor_and_does_not_touch_it(home: Path, tmp_path: Path, base: str):
    """What population-based training does: a bad trial takes a good one's weights and moments, and new settings."""
    spec, changes = member_specs(home, **BASES[base])[2], {"learning_rate": 2e-2, "lora_dropout": 0.4}
    changed = spec.model_copy(update=changes)
    quiet = place_tiny(spec)
    undisturbed = admit(quiet, 0, spec, home)
    train_all(quiet, [undisturbed])

    busy = place_tiny(spec)
    donor = admit(busy, 0, spec, home, tmp_path)
    bad = admit(busy, 1, spec.model_copy(update={"seed": 77, "learning_rate": 1e-4}), home)
    for _ in range(3):
        turn(busy, [donor, bad])
    donor.save()
    at_save = state_of(busy, donor)
    busy.release(1)
    clone = admit(busy, 1, changed, home, None, donor.settle())
    assert clone.progress.step == donor.progress.step == 3
    assert_same_bits(state_of(busy, clone), at_save)
    turn(busy, [clone])
    assert_same_bits(state_of(busy, donor), at_save)
    train_all(busy, [donor, clone])
    assert losses_of(donor) == losses_of(undisturbed)
    assert_same_bits(state_of(busy, donor), state_of(quiet, undisturbed))

    elsewhere = place_tiny(spec)
    alone = admit(elsewhere, 0, changed, home, None, donor.settle())
    train_all(elsewhere, [alone])
    assert losses_of(clone) == losses_of(alone)
    assert_same_bits(state_of(busy, clone), state_of(elsewhere, alone))
    assert losses_of(clone, ["learning_rate"]) == [
        learning_rate(changed, step, changed.max_steps) for step in range(3, changed.max_steps)
    ]
    assert losses_of(clone)[1:] != losses_of(donor)[-len(losses_of(clone)) + 1 :]


@pytest.mark.parametrize(
    ("base", "matrix"),
    [
        pytest.param("plain", "lora_A", marks=pytest.mark.slow),
        ("plain", "lora_B"),
        pytest.param("nf4-recomputed", "lora_B", marks=pytest.mark.slow),
    ],
)
def test_a_slot_that_is_not_a_number_fails_alone(home: Path, base: str, matrix: str):
    specs = member_specs(home, **BASES[base])[:4]
    quiet = place_tiny(specs[0])
    sound = {k: admit(quiet, k, specs[k], home) for k in (0, 2, 3)}
    train_all(quiet, list(sound.values()))

    trainee = place_tiny(specs[0])
    members = [admit(trainee, slot, spec, home) for slot, spec in enumerate(specs)]
    turn(trainee, members)
    name = next(name for name in trainee.bank.parameters(1) if name.endswith(matrix))  # of the first layer
    trainee.bank.parameters(1)[name].data[0, 0] = float("nan")
    before = state_of(trainee, members[1])
    failures = step_all(trainee, members)
    assert failures.keys() == {1}
    rows, _ = open_rows(specs[1], home / "cache")
    named = sorted(row for batch in rows.step(1, 0, 1) for line in batch.row_ids for row in line)
    assert f"loss is nan at step 2, in the rows {named};" in str(failures[1])
    assert f"{home / 'rows.jsonl'}, line {named[0] + 1}" in str(failures[1])
    assert members[1].progress.step == 1
    assert_same_bits(state_of(trainee, members[1]), before)
    assert not validate_all(trainee, [members[0], *members[2:]])

    trainee.release(1)  # and its slot is as good as new
    again = admit(trainee, 1, specs[1], home)
    train_all(trainee, [again, members[0], *members[2:]])
    for k in sound:
        assert losses_of(members[k]) == losses_of(sound[k])
        assert_same_bits(state_of(trainee, members[k]), state_of(quiet, sound[k]))
    alone = admit(quiet, 1, specs[1], home)
    train_all(quiet, [alone])
    assert losses_of(again) == losses_of(alone)
    assert_same_bits(state_of(trainee, again), state_of(quiet, alone))
