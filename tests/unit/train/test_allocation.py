"""AdaLoRA's ranks: the same after a break in any phase, in any slot; steps that do not suffice are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylora.errors import InputError
from raylora.spec.fields.phases import phases
from raylora.spec.run import RunSpec
from tests.unit.train.pack_run import (
    admit,
    assert_same_bits,
    events_of,
    losses_of,
    member_specs,
    place_tiny,
    state_of,
    train_all,
    turn,
)
from tests.unit.train.tiny_run import save_materials

ADALORA = {"adapter": "adalora", "lora_r": 4, "target_r": 2, "tinit": 1, "tfinal": 2, "max_steps": 6}
"""All train in step 1, ranks go in 2 to 4, and none after."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("allocation"), 60)


def spec_of(home: Path, **fields: object) -> RunSpec:
    (spec,) = member_specs(home, [{**ADALORA, **fields}])
    return spec


@pytest.mark.parametrize("num_turns", [1, 3, 5])
def test_a_run_goes_on_bit_for_bit_from_any_phase(home: Path, tmp_path: Path, num_turns: int):
    spec = spec_of(home)
    whole = place_tiny(spec)
    member = admit(whole, 0, spec, home, tmp_path)
    for _ in range(num_turns):
        turn(whole, [member])
    member.save()
    assert any("exp_avg_ipt" in name for name in state_of(whole, member)) is (num_turns < 4)
    assert any(name.startswith("left.") for name in state_of(whole, member)) is (num_turns > 1)
    train_all(whole, [member])
    other = place_tiny(spec)
    newcomer = admit(other, 0, spec_of(home, seed=77), home)
    turn(other, [newcomer])
    resumed = admit(other, 5, spec, home, None, member.settle())
    train_all(other, [newcomer, resumed])
    told = losses_of(resumed)
    assert told == losses_of(member)[-len(told) :]
    assert_same_bits(state_of(other, resumed), state_of(whole, member))
    assert other.ranks_left(5) == whole.ranks_left(0)


def test_ranks_go_step_by_step_and_stay_gone(home: Path):
    spec = spec_of(home)
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, home)
    num_left = []
    while member.ending is None:
        turn(trainee, [member])
        num_left.append(sum(trainee.ranks_left(0).values()))
        if len(num_left) == 4:
            settled = trainee.ranks_left(0)
    num_layers = len(trainee.ranks_left(0))
    assert num_left[1:] == sorted(num_left[1:], reverse=True)
    assert num_left[3:] == [2 * num_layers] * 3
    assert num_left[1] > num_left[2] > num_left[3]
    assert trainee.ranks_left(0) == settled


def test_what_is_added_to_the_loss_is_told_beside_it(home: Path):
    spec = spec_of(home)
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, home)
    matrices = [each for name, each in trainee.bank.parameters(0).items() if not name.endswith("lora_E")]
    squares = [each @ each.T if each.shape[0] == 4 else each.T @ each for each in matrices]
    wanted = 0.5 * sum(float((square - torch.eye(4)).norm()) for square in squares) / len(squares)
    penalty = trainee.allocations[0].penalty()
    assert penalty is not None
    assert float(penalty) == pytest.approx(wanted, rel=1e-5)
    turn(trainee, [member])
    (step,) = events_of(member, "step")
    assert step.values["train_orth"] == pytest.approx(wanted, rel=1e-5)


def test_without_a_weight_nothing_is_added(home: Path):
    spec = spec_of(home, orth_reg_weight=0)
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, home)
    turn(trainee, [member])
    assert trainee.allocations[0].penalty() is None
    assert not any("train_orth" in event.values for event in events_of(member))


def test_matrices_come_nearer_to_orthogonal_ones(home: Path):
    def distance(weight: float) -> float:
        spec = spec_of(home, orth_reg_weight=weight, learning_rate=2e-2)
        trainee = place_tiny(spec)
        train_all(trainee, [admit(trainee, 0, spec, home)])
        gaps = [
            float((each @ each.T - torch.eye(4)).norm())
            for name, each in trainee.bank.parameters(0).items()
            if name.endswith("lora_A")
        ]
        return sum(gaps)

    assert distance(10.0) < distance(0.0)


def test_steps_that_do_not_suffice_are_refused_where_only_the_rows_tell_them(home: Path):
    spec = spec_of(home, max_steps=None, tinit=500)
    trainee = place_tiny(spec)
    with pytest.raises(InputError, match=r"tinit: got 500 and tfinal: 2, which leave no step of \d+ to take"):
        admit(trainee, 0, spec, home)
    trainee.release(0)
    assert not trainee.allocations


def test_a_budget_in_tokens_that_leaves_too_few_steps_is_refused(home: Path):
    spec = spec_of(home)
    with pytest.raises(InputError, match="which leave no step of 1 to take ranks away"):
        admit(place_tiny(spec), 0, spec, home, max_tokens=1)


def test_a_slot_is_as_new_after_its_run(home: Path):
    spec = spec_of(home)
    trainee = place_tiny(spec)
    first = admit(trainee, 0, spec, home)
    train_all(trainee, [first])
    wanted = state_of(trainee, first)
    trainee.release(0)
    assert not trainee.allocations
    again = admit(trainee, 0, spec, home)
    train_all(trainee, [again])
    assert losses_of(again) == losses_of(first)
    assert_same_bits(state_of(trainee, again), wanted)


def test_phases_are_shares_of_the_steps_where_nothing_is_said(home: Path):
    assert phases(spec_of(home, tinit=None, tfinal=None), 100) == (10, 30)
    assert phases(spec_of(home, tinit=None, tfinal=None), 2) == (0, 0)
    assert phases(spec_of(home, tinit=0), 100) == (0, 2)
