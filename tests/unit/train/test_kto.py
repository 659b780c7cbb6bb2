"""Runs that learn from rated answers: the reference point is one over a step and over an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylora.model.rows.route import Span
from raylora.spec.run import RunSpec
from raylora.train.evaluate import evaluate
from raylora.train.forward import Piece, beside_reference, not_training
from raylora.train.member import Member
from raylora.train.trainee import Trainee
from tests.unit.train.pack_run import (
    admit,
    assert_same_bits,
    events_of,
    losses_of,
    place_tiny,
    state_of,
    train_all,
    turn,
)
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps, save_base, tiny_spec, write_rated

TOLD = {"reward_desirable", "reward_undesirable", "reward_margin", "kl"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kto")
    save_base(folder / "base")
    write_rated(folder / "rated.jsonl", 60)
    return folder


def spec_of(home: Path, **fields: Any) -> RunSpec:
    source = {"path": str(home / "rated.jsonl"), "type": "unpaired_preference"}
    shared = {"datasets": [source], "val_set_size": 10, "eval_steps": 3, "max_steps": 6, "rl": "kto", "rl_beta": 0.5}
    return tiny_spec(home / "base", home / "rated.jsonl", **{**shared, "micro_batch_size": 4, **fields})


def trained(home: Path, spec: RunSpec) -> tuple[Trainee, Member]:
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, home)
    train_all(trainee, [member])
    return trainee, member


@pytest.mark.parametrize("fields", [{}, {"sample_packing": True}], ids=["rows", "bins"])
def test_accumulation_changes_nothing(home: Path, fields: dict[str, Any]):
    """One micro-batch of four, two of two, four of one: one reference point for all of a step."""
    told = []
    for size in (4, 2, 1):
        spec = spec_of(home, micro_batch_size=size, gradient_accumulation_steps=4 // size, **fields)
        rows, validation = open_rows(spec, home / "cache")
        assert validation is not None
        trainee = build_tiny(spec)
        steps = run_steps(trainee, rows, range(6))
        after = evaluate(trainee, {0: validation})[0]
        told.append([(each.loss, each.metrics["kl"]) for each in (*steps, after)])
    for of_size in told[1:]:
        assert [loss for loss, _ in of_size] == pytest.approx([loss for loss, _ in told[0]], abs=1e-5)
        assert [point for _, point in of_size] == pytest.approx([point for _, point in told[0]], abs=1e-4)
    assert max(point for _, point in told[0]) > 0.05


def test_the_point_is_the_mean_over_all_rows_scored_one_by_one(home: Path):
    spec = spec_of(home, rl_beta=0.2, kto_desirable_weight=4)
    rows, validation = open_rows(spec, home / "cache")
    assert validation is not None
    trainee = build_tiny(spec)
    run_steps(trainee, rows, range(5))
    one_by_one, _ = open_rows(
        spec.model_copy(update={"micro_batch_size": 1, "gradient_accumulation_steps": 4}), home / "cache"
    )
    gains = []
    for batch in one_by_one.mismatched(5, 0, 1):
        with not_training(trainee):
            (scores,) = beside_reference(trainee, [Piece(Span(0), batch)])
        assert scores.reference_N is not None
        gains.append(float((scores.reference_N - scores.losses_N).sum()))
    (step,) = run_steps(trainee, rows, range(5, 6))
    assert len(gains) == 4
    assert step.metrics["kl"] == pytest.approx(sum(gains) / 4, abs=1e-4)
    assert step.metrics["kl"] > 0.05


def test_rows_in_bins_are_evaluated_as_by_themselves(home: Path):
    spec = spec_of(home)
    trainee, member = trained(home, spec)
    binned = open_rows(spec.model_copy(update={"sample_packing": True}), home / "cache")[1]
    assert member.validation is not None and binned is not None
    alone, together = (evaluate(trainee, {0: rows})[0] for rows in (member.validation, binned))
    assert together.loss == pytest.approx(alone.loss, abs=1e-5)
    assert together.metrics == pytest.approx(dict(alone.metrics), abs=1e-4)


def test_what_is_desirable_becomes_likelier_and_the_rest_less(home: Path):
    _, member = trained(home, spec_of(home, lora_r=8, max_steps=30, eval_steps=2, learning_rate=1e-2))
    first, last = events_of(member, "eval")[0].values, events_of(member, "eval")[-1].values
    assert last["eval_loss"] < min(first["eval_loss"], 0.3)
    assert last["eval_reward_desirable"] > 0.1 > -0.1 > last["eval_reward_undesirable"]
    steps = [event.values for event in events_of(member, "step")]
    assert any(step.keys() >= {f"train_{name}" for name in TOLD} for step in steps)
    assert member.progress.eval_metrics == {name: value for name, value in last.items() if name != "eval_loss"}


def test_a_weight_of_desirable_answers_is_heard(home: Path):
    _, plain = trained(home, spec_of(home))
    _, weighted = trained(home, spec_of(home, kto_desirable_weight=2))
    _, both = trained(home, spec_of(home, kto_desirable_weight=2, kto_undesirable_weight=2))
    first = [losses_of(member, ["train_loss"])[0] for member in (plain, weighted, both)]
    assert first[0] == pytest.approx(0.5) and first[2] == pytest.approx(1.0)
    assert 0.5 < first[1] < 1.0


@pytest.mark.parametrize("fields", [{}, {"lora_dropout": 0.2, "sample_packing": True}], ids=["plain", "dropout-bins"])
def test_a_run_goes_on_to_the_bit(home: Path, tmp_path: Path, fields: dict[str, Any]):
    spec = spec_of(home, **fields)
    whole, uninterrupted = trained(home, spec)
    first = place_tiny(spec)
    member = admit(first, 0, spec, home, tmp_path / "store")
    for _ in range(3):
        turn(first, [member])
    member.save()
    uri = member.settle()
    again = place_tiny(spec)
    resumed = admit(again, 0, spec, home, tmp_path / "store", uri)
    train_all(again, [resumed])
    assert_same_bits(state_of(again, resumed), state_of(whole, uninterrupted))
    told = losses_of(resumed, ["train_loss", "eval_loss", "train_kl", "eval_kl"])
    assert told == losses_of(uninterrupted, ["train_loss", "eval_loss", "train_kl", "eval_kl"])[-len(told) :]


def test_the_base_alone_is_the_reference_whatever_the_dropout(home: Path):
    """Before anything was learned an answer gains nothing: points and rewards are 0, and dropout has no say."""
    trainee = place_tiny(spec_of(home, lora_dropout=0.5, max_steps=1))
    member = admit(trainee, 0, trainee.spec, home)
    assert member.validation is not None
    before = evaluate(trainee, {0: member.validation})[0]
    assert before.loss == pytest.approx(0.5)
    assert before.metrics == pytest.approx(dict.fromkeys(TOLD, 0.0))
    train_all(trainee, [member])
    (step,) = events_of(member, "step")
    assert (step.values["train_loss"], step.values["train_kl"]) == (pytest.approx(0.5), 0.0)
