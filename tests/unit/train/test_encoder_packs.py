"""Packs on encoders: members have the bits they have alone, whatever the base drops, and whoever comes and goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raylora.model.base.meta import read_config
from raylora.model.rows.route import Span
from raylora.train.evaluate import evaluate
from raylora.train.forward import Piece, not_training, scores_of
from raylora.train.prediction.estimate import estimate_pack
from raylora.train.prediction.forecast import forecast
from tests.unit.train.pack_run import (
    admit,
    assert_each_is_as_alone,
    place_tiny,
    train_all,
    trained,
    turn,
)
from tests.unit.train.tiny_heads import ENCODER_MEMBERS, ENCODERS, head_spec, save_family, save_home
from tests.unit.train.tiny_run import CPU, assert_rows_apart_are_rows_together, build_tiny, open_rows, solo_step

pytestmark = pytest.mark.slow

FIELDS: dict[str, Any] = {"val_set_size": 8, "eval_steps": 2, "max_steps": 4}
DROPS = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}
NEVER = dict.fromkeys(DROPS, 1e-12)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_home(tmp_path_factory.mktemp("encoders"))
    for family in ("bert", "roberta"):
        save_family(folder / f"{family}-drops", family, **DROPS)
        save_family(folder / f"{family}-never-drops", family, **NEVER)
    return folder


@pytest.mark.parametrize(
    ("family", "task", "fields"),
    [
        ("bert", "seq_cls", {}),
        ("bert-drops", "token_cls", {"load_in_4bit": True}),
        ("bert-drops", "reward", {"gradient_checkpointing": True}),
        ("roberta-drops", "seq_cls", {"load_in_4bit": True}),
        ("roberta", "token_cls", {"load_in_8bit": True}),
        ("roberta-drops", "reward", {}),
    ],
    ids=[
        "bert-seq_cls",
        "bert-token_cls-nf4-dropout",
        "bert-reward-dropout-recomputed",
        "roberta-seq_cls-nf4-dropout",
        "roberta-token_cls-int8",
        "roberta-reward-dropout",
    ],
)
def test_members_together_are_members_alone(home: Path, family: str, task: str, fields: dict[str, Any]):
    specs = [head_spec(home, family, task, **{**FIELDS, **member, **fields}) for member in ENCODER_MEMBERS]
    assert_each_is_as_alone(*trained(home, *specs), home)


def test_who_comes_and_goes_changes_no_other(home: Path):
    stays, leaves, comes = (
        head_spec(home, "bert-drops", "seq_cls", **{**FIELDS, **member}) for member in ENCODER_MEMBERS[:3]
    )
    trainee = place_tiny(stays)
    first, second = (admit(trainee, slot, spec, home) for slot, spec in enumerate((stays, leaves)))
    turn(trainee, [first, second])
    trainee.release(second.slot)
    third = admit(trainee, second.slot, comes, home)
    train_all(trainee, [first, third])
    assert_each_is_as_alone(trainee, [first, third], home)


@pytest.mark.parametrize("task", ["seq_cls", "token_cls"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_what_is_never_dropped_is_as_without_dropout(home: Path, family: str, task: str):
    """The attention that drops is another piece of code than torch's kernels."""
    dropping, quiet = (head_spec(home, name, task, micro_batch_size=6) for name in (f"{family}-never-drops", family))
    rows, _ = open_rows(quiet, home / "cache")
    found, wanted = (solo_step(build_tiny(spec), rows.step(0, 0, 1), 0, 0.0) for spec in (dropping, quiet))
    assert found.loss == pytest.approx(wanted.loss, abs=1e-6)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)


@pytest.mark.parametrize("family", ["bert-drops", "roberta-drops"])
def test_what_a_base_drops_is_each_rows_own(home: Path, family: str):
    """So two workers drop what one does; another step or seed drops otherwise, and an evaluation nothing."""
    spec = head_spec(home, family, "seq_cls", **{**FIELDS, "micro_batch_size": 6})
    rows, validation = open_rows(spec, home / "cache")
    whole = assert_rows_apart_are_rows_together(spec, rows)
    later = solo_step(build_tiny(spec), rows.step(0, 0, 1), 1, 0.0)
    assert later.loss != pytest.approx(whole.loss, abs=1e-4)
    assert validation is not None
    trainee = build_tiny(spec)
    torch.manual_seed(1)
    first, again = (evaluate(trainee, {0: validation})[0].loss for _ in range(2))
    assert first == again


@pytest.mark.parametrize("task", ["seq_cls", "token_cls"])
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_as_it_is_published_draws_nothing_for_all_rows_at_once(home: Path, family: str, task: str):
    """Torch's own generator, from which one dropout for all rows would draw, is left as it was."""
    folder = home / f"{family}-published"
    if not folder.exists():
        save_family(folder, family)
    spec = head_spec(home, folder.name, task, lora_dropout=0.1)
    rows, _ = open_rows(spec, home / "cache")
    trainee, (batch,) = build_tiny(spec), rows.step(0, 0, 1)
    before = torch.random.get_rng_state()
    (found,) = scores_of(trainee, [Piece(Span(0), batch)])
    assert torch.equal(torch.random.get_rng_state(), before)
    with not_training(trainee):
        (whole,) = scores_of(trainee, [Piece(Span(0), batch)])
    assert not torch.allclose(found.losses_N, whole.losses_N, atol=1e-4), "nothing was dropped"


@pytest.mark.parametrize(("family", "task"), [("bert", "seq_cls"), ("roberta-drops", "reward")])
def test_a_pack_is_predicted(home: Path, family: str, task: str):
    spec, config = head_spec(home, family, task), read_config(home / family)
    one, three = (estimate_pack([spec] * num_slots, config, "cpu").ranks[0] for num_slots in (1, 3))
    assert (three.base_bytes, three.adapters_bytes) == (one.base_bytes, 3 * one.adapters_bytes)
    assert 2 * one.activations_bytes < three.activations_bytes < 3.2 * one.activations_bytes
    assert forecast(spec, config, 3, 24, CPU).pass_s > 0
