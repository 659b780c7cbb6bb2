"""Packs from sources to targets: members have the bits they have alone, whatever the base drops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raylora.model.rows.route import Span
from raylora.train.forward import Piece, scores_of
from tests.unit.train.pack_run import assert_each_is_as_alone, trained
from tests.unit.train.tiny_run import assert_rows_apart_are_rows_together, build_tiny, open_rows, solo_step
from tests.unit.train.tiny_seq2seq import FAMILIES, TWO_SIDED_MEMBERS, save_seq2seq, save_seq2seq_home, seq2seq_spec


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_seq2seq_home(tmp_path_factory.mktemp("seq2seq"))
    for family in FAMILIES:
        save_seq2seq(folder / f"{family}-drops", family, dropout_rate=0.2)
    save_seq2seq(folder / "t5-never-drops", "t5", dropout_rate=1e-12)
    return folder


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("t5", {}),
        ("t5-drops", {"load_in_4bit": True, "gradient_checkpointing": True}),
        ("flan-t5-drops", {"load_in_8bit": True}),
        ("mt5-drops", {}),
        ("mt5", {"load_in_4bit": True}),
    ],
    ids=["t5", "t5-nf4-dropout-recomputed", "flan-t5-int8-dropout", "mt5-dropout", "mt5-nf4"],
)
def test_members_together_are_members_alone(home: Path, family: str, fields: dict[str, Any]):
    specs = [seq2seq_spec(home, family, **{**member, **fields}) for member in TWO_SIDED_MEMBERS]
    assert_each_is_as_alone(*trained(home, *specs), home)


def test_what_is_never_dropped_is_as_without_dropout(home: Path):
    """The attention that drops is another piece of code than torch's kernels."""
    dropping, quiet = (seq2seq_spec(home, name, micro_batch_size=6) for name in ("t5-never-drops", "t5"))
    rows, _ = open_rows(quiet, home / "cache")
    found, wanted = (solo_step(build_tiny(spec), rows.step(0, 0, 1), 0, 0.0) for spec in (dropping, quiet))
    assert found.loss == pytest.approx(wanted.loss, abs=1e-6)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)


@pytest.mark.parametrize("family", [f"{family}-drops" for family in FAMILIES])
def test_what_a_base_drops_is_each_rows_own(home: Path, family: str):
    spec = seq2seq_spec(home, family, micro_batch_size=6, lora_dropout=0.2)
    rows, _ = open_rows(spec, home / "cache")
    assert_rows_apart_are_rows_together(spec, rows)


def test_lines_that_are_equally_long_only_together_are_told_apart(home: Path, tmp_path: Path):
    """Sources of 4 and 5 tokens, targets of 5 and 4: by their number alone the sides of the whole pass are one."""
    asked = [("the model reads", "1 2 3", 4), ("the model reads a", "1 2", 8)]
    specs, batches = [], []
    for number, (prompt, completion, rank) in enumerate(asked):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
        source = {"datasets": [{"path": str(file), "type": "completion"}], "micro_batch_size": 1}
        specs.append(seq2seq_spec(home, "t5-drops", lora_r=rank, seed=number, lora_dropout=0.3, **source))
        batches.append(open_rows(specs[-1], tmp_path / "cache")[0].step(0, 0, 1)[0])
    together = build_tiny(specs[0])
    together.admit(1, specs[1])
    found = scores_of(together, [Piece(Span(slot), batch) for slot, batch in enumerate(batches)])
    for spec, batch, scores in zip(specs, batches, found, strict=True):
        (alone,) = scores_of(build_tiny(spec), [Piece(Span(0), batch)])
        assert torch.equal(scores.losses_N, alone.losses_N)
