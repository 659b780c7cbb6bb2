"""Runs from sources to targets: learned, resumed as whole, counted as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raylora.errors import ModelError
from raylora.model.base.load import base_on_meta
from raylora.model.base.meta import read_config
from raylora.model.inspect import inspect_targets
from raylora.model.targets import adapter_values
from raylora.train.prediction.estimate import estimate, estimate_pack
from raylora.train.prediction.forecast import forecast
from tests.unit.train.pack_run import admit, assert_same_bits, events_of, losses_of, place_tiny, state_of, train_all
from tests.unit.train.tiny_run import assert_rows_apart_are_rows_together, build_tiny, open_rows, solo_step
from tests.unit.train.tiny_seq2seq import FAMILIES, KINDS, save_seq2seq, save_seq2seq_home, seq2seq_spec

pytestmark = pytest.mark.slow

FIELDS: dict[str, Any] = {"val_set_size": 8, "eval_steps": 3, "max_steps": 6}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seq2seq_home(tmp_path_factory.mktemp("seq2seq"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_for_is_learned(home: Path, kind: str):
    fields = {**FIELDS, "max_steps": 30, "eval_steps": 15, "micro_batch_size": 4, "learning_rate": 2e-2, **KINDS[kind]}
    spec = seq2seq_spec(home, "flan-t5", **fields)
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, home)
    train_all(trainee, [member])
    losses = losses_of(member, ["train_loss"])
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert {"eval_perplexity", "eval_token_accuracy"} <= events_of(member, "eval")[-1].values.keys()


def test_a_resumed_run_is_one_that_went_on(home: Path, tmp_path: Path):
    spec = seq2seq_spec(home, "t5", **FIELDS, save_steps=3, lora_dropout=0.2)
    trainee = place_tiny(spec)
    whole = admit(trainee, 0, spec, home)
    train_all(trainee, [whole])
    trainee_of_first = place_tiny(spec)
    first = admit(trainee_of_first, 0, spec, home, tmp_path)
    while first.progress.step < 3:
        share = first.share()
        first.took(share, solo_step(trainee_of_first, share.batches, share.step, share.learning_rate), 1.0)
    first.save()
    again = place_tiny(spec)
    second = admit(again, 0, spec, home, start_from=first.settle())
    train_all(again, [second])
    assert_same_bits(state_of(again, second), state_of(trainee, whole))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_neither_padding_nor_neighbours_are_seen(home: Path, dropout: float):
    spec = seq2seq_spec(home, "t5", micro_batch_size=6, lora_dropout=dropout)
    rows, _ = open_rows(spec, home / "cache")
    assert_rows_apart_are_rows_together(spec, rows)


@pytest.mark.parametrize("quantization", [{}, {"load_in_4bit": True}], ids=["plain", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_predicted_is_there(home: Path, family: str, quantization: dict[str, Any]):
    spec, config = seq2seq_spec(home, family, **quantization), read_config(home / family)
    trainee = build_tiny(spec)
    predicted = estimate(spec, config, "cpu")
    num_values = trainee.num_trainable(0)
    assert predicted.trainable_parameters == num_values
    assert predicted.ranks[0].base_bytes == trainee.held_base_bytes
    assert predicted.ranks[0].adapters_bytes == predicted.ranks[0].gradients_bytes == 4 * num_values
    assert predicted.ranks[0].optimizer_bytes == 8 * num_values
    model = base_on_meta(config, spec, torch.float32)
    found = inspect_targets(model, spec)
    assert not found.problems
    assert found.trainable_parameters == adapter_values(model, spec) == num_values
    assert {row.pattern for row in found.rows if not row.num_adapted} == {"lm_head"}


def test_a_decoder_alone_would_be_less(home: Path):
    """Activations of both sides are counted: those of an encoder without blocks are fewer."""
    spec = seq2seq_spec(home, "t5", sequence_len=256)
    both, shallow = read_config(home / "t5"), read_config(home / "t5")
    shallow.num_layers, shallow.num_decoder_layers = 1, 2
    fewer = estimate(spec, shallow, "cpu").ranks[0].activations_bytes
    assert fewer < 0.85 * estimate(spec, both, "cpu").ranks[0].activations_bytes


def test_a_pack_is_predicted(home: Path):
    spec, config = seq2seq_spec(home, "t5"), read_config(home / "t5")
    one, three = (estimate_pack([spec] * num_slots, config, "cpu").ranks[0] for num_slots in (1, 3))
    assert (three.base_bytes, three.adapters_bytes) == (one.base_bytes, 3 * one.adapters_bytes)
    assert 2 * one.activations_bytes < three.activations_bytes < 3.2 * one.activations_bytes


def test_its_time_is_not_foretold(home: Path):
    with pytest.raises(ModelError, match="blocks of encoder and decoder take unlike times"):
        forecast(seq2seq_spec(home, "t5"), read_config(home / "t5"), 1, 16, torch.device("cpu"))


def test_a_base_may_draw_by_chance(tmp_path: Path):
    """As published T5s do; the draws of a step are its own."""
    home = save_seq2seq_home(tmp_path)
    save_seq2seq(home / "draws", "t5", dropout_rate=0.3)
    spec = seq2seq_spec(home, "draws")
    rows, _ = open_rows(spec, home / "cache")
    batches = rows.step(0, 0, 1)
    first, again = (solo_step(build_tiny(spec), batches, 0, 0.0).loss for _ in range(2))
    assert first == again
    assert first != pytest.approx(solo_step(build_tiny(spec), batches, 1, 0.0).loss, abs=1e-4)
