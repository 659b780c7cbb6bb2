"""EVA in its slot: what it starts from, when, and that nobody else notices; its vectors: reference/test_starts.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from raylora.data.collate import Batch
from raylora.data.flat import flatten
from raylora.spec.run import RunSpec
from raylora.train.eva import NUM_STEPS, _Sketch, start_from_inputs
from raylora.train.trainee import Trainee
from tests.unit.train.pack_run import (
    admit,
    assert_same_bits,
    losses_of,
    member_specs,
    place_tiny,
    state_of,
    train_all,
    turn,
)
from tests.unit.train.tiny_heads import head_spec, save_home
from tests.unit.train.tiny_run import build_tiny, open_rows, save_materials

EVA = {"lora_r": 4, "seed": 3, "init_lora_weights": "eva", "lora_dropout": 0.3}
PLAIN = {"lora_r": 4, "seed": 5, "lora_dropout": 0.2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("eva"), 60)


def spec_of(home: Path, **fields: object) -> RunSpec:
    (spec,) = member_specs(home, [{**EVA, **fields}])
    return spec


def starts(trainee: Trainee, matrix: str) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainee.bank.parameters(0).items() if name.endswith(matrix)}


def test_the_first_step_starts_a_and_no_later_one(home: Path):
    """The rate of the first step is zero, so that A is seen as it starts."""
    spec = spec_of(home)
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, home)
    at_random = starts(trainee, "lora_A")
    assert len(member.share().start_rows) == NUM_STEPS * spec.gradient_accumulation_steps
    turn(trainee, [member])
    assert trainee.model.training
    for name, a_RI in starts(trainee, "lora_A").items():
        assert not torch.equal(a_RI, at_random[name])
        torch.testing.assert_close(a_RI @ a_RI.t(), torch.eye(4), rtol=0, atol=1e-5)
        assert not trainee.model.get_submodule(name.removesuffix(".lora_A"))._forward_pre_hooks
    assert not any(b_OR.any() for b_OR in starts(trainee, "lora_B").values())
    assert not member.share().start_rows


def test_a_run_of_fewer_steps_looks_at_those_it_has(home: Path):
    spec = spec_of(home, max_steps=2, gradient_accumulation_steps=3)
    assert len(admit(place_tiny(spec), 0, spec, home).share().start_rows) == 2 * 3


def test_other_starts_look_at_nothing(home: Path):
    spec = spec_of(home, init_lora_weights="gaussian")
    assert not admit(place_tiny(spec), 0, spec, home).share().start_rows


@pytest.mark.parametrize("base", [{}, {"load_in_4bit": True, "gradient_checkpointing": True}], ids=["plain", "nf4"])
def test_a_slot_that_trains_beside_it_does_not_notice(home: Path, base: dict[str, object]):
    plain, newcomer = member_specs(home, [PLAIN, EVA], **base)
    quiet = place_tiny(plain)
    alone = admit(quiet, 0, plain, home)
    train_all(quiet, [alone])
    busy = place_tiny(plain)
    watched = admit(busy, 0, plain, home)
    turn(busy, [watched])
    turn(busy, [watched])
    late = admit(busy, 1, newcomer, home)
    train_all(busy, [watched, late])
    assert losses_of(watched) == losses_of(alone)
    assert_same_bits(state_of(busy, watched), state_of(quiet, alone))
    by_itself = place_tiny(newcomer)
    only = admit(by_itself, 0, newcomer, home)
    train_all(by_itself, [only])
    assert_same_bits(state_of(busy, late), state_of(by_itself, only))


def test_a_run_saved_before_its_first_step_starts_alike_elsewhere(home: Path, tmp_path: Path):
    spec = spec_of(home)
    trainee, other = place_tiny(spec), place_tiny(spec)
    first = admit(trainee, 0, spec, home, tmp_path)
    first.save()
    saved = first.settle()
    train_all(trainee, [first])
    second = admit(other, 2, spec, home, start_from=saved)
    train_all(other, [second])
    assert losses_of(second) == losses_of(first)
    assert_same_bits(state_of(other, second), state_of(trainee, first))


def test_padding_of_an_encoders_pairs_is_no_input(tmp_path: Path):
    """Pairs of a batch start an adapter as their texts do that come one by one, without any padding."""
    home = save_home(tmp_path, ["roberta"])
    spec = head_spec(home, "roberta", "reward", **EVA, lora_target_modules=["query", "dense"])
    rows, _ = open_rows(spec, tmp_path / "cache")
    batches = [batch for step in range(2) for batch in rows.step(step, 0, 1)]
    found = []
    for looked_at in (batches, [text for batch in batches for text in texts_alone(batch)]):
        trainee = build_tiny(spec)
        start_from_inputs(trainee, {0: looked_at}, len(looked_at))
        found.append(starts(trainee, "lora_A"))
    together, alone = found
    for name, a_RI in together.items():
        torch.testing.assert_close(a_RI, alone[name], rtol=0, atol=1e-3)


def texts_alone(batch: Batch) -> list[Batch]:
    """Each text of a batch in one of its own."""
    line = flatten(batch)
    of_texts = (of[0].split(line.row_lengths) for of in (line.input_ids_1N, line.labels_1N, line.position_ids_1N))
    return [
        Batch(ids_T[None], labels_T[None], positions_T[None], torch.ones_like(ids_T)[None], ((0,),))
        for ids_T, labels_T, positions_T in zip(*of_texts, strict=True)
    ]


def directions(x_NI: Tensor, rank: int) -> Tensor:
    """Of a sketch that looked at some inputs twice."""
    sketch = _Sketch("layer", torch.zeros(rank, x_NI.shape[1]))
    for _ in range(2):
        sketch.begin()
        sketch.add(x_NI)
    return sketch.directions(rank)


def test_fewer_inputs_than_the_rank_give_fewer_directions():
    torch.manual_seed(0)
    x_NI = torch.randn(3, 64)
    found_RI = directions(x_NI, 8)
    assert found_RI.shape == (3, 64)
    torch.testing.assert_close(x_NI @ found_RI.t() @ found_RI, x_NI)


def test_an_input_that_is_not_finite_is_passed_over():
    torch.manual_seed(0)
    x_NI = torch.randn(40, 16)
    odd_NI = torch.cat([x_NI[:20], torch.full((1, 16), torch.nan), x_NI[20:], torch.full((1, 16), -torch.inf)])
    torch.testing.assert_close(directions(odd_NI, 4), directions(x_NI, 4))


def test_the_order_of_inputs_and_how_they_are_dealt_out_change_nothing():
    torch.manual_seed(0)
    x_NI = torch.randn(40, 96)
    whole, other = (_Sketch("layer", torch.zeros(4, 96)) for _ in range(2))
    for _ in range(2):
        for sketch in (whole, other):
            sketch.begin()
        whole.add(x_NI)
        for part in x_NI.flip(0).split([7, 30, 3]):
            other.add(part)
    torch.testing.assert_close(other.directions(4), whole.directions(4))
