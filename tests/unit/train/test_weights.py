"""Runs over weighted messages: dealt in any way, packed or alone, they learn the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylora.train.step import StepResult
from tests.unit.train.pack_run import MIXED, admit, assert_same_bits, losses_of, place_tiny, state_of, train_all
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps, save_base, tiny_spec, write_weighted

WEIGHTS = (0, 0.1, 0.5, 1, None)
NUM_ROWS = 24
WHOLE = {"micro_batch_size": NUM_ROWS}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_base(folder / "base", num_hidden_layers=2)
    write_weighted(folder / "rows.jsonl", NUM_ROWS, WEIGHTS)
    write_weighted(folder / "halves.jsonl", NUM_ROWS, (0.5,))
    write_weighted(folder / "full.jsonl", NUM_ROWS, (None,))
    return folder


def steps(home: Path, rows: str = "rows.jsonl", **fields: Any) -> list[StepResult]:
    """Three steps, of all rows each."""
    spec = tiny_spec(home / "base", home / rows, **{**WHOLE, **fields})
    batches, _ = open_rows(spec, home / "cache")
    assert batches.num_steps() == 1
    return run_steps(build_tiny(spec), batches, range(3))


@pytest.mark.parametrize(
    "fields",
    [
        {"micro_batch_size": NUM_ROWS // 2, "gradient_accumulation_steps": 2},
        {"micro_batch_size": 1, "gradient_accumulation_steps": NUM_ROWS},
        {"sample_packing": True},
        {"sample_packing": True, "micro_batch_size": 2, "gradient_accumulation_steps": NUM_ROWS // 2},
    ],
    ids=["two-parts", "rows", "bins", "two-bins-a-part"],
)
def test_however_rows_are_dealt_the_step_is_the_same(home: Path, fields: dict[str, Any]):
    for found, wanted in zip(steps(home, **fields), steps(home), strict=True):
        assert found.loss == pytest.approx(wanted.loss, abs=1e-5)
        assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)
        assert found.metrics == pytest.approx(wanted.metrics, rel=1e-4)
        assert found.num_tokens == wanted.num_tokens


def test_weights_that_are_all_alike_change_nothing(home: Path):
    """The texts of both files are the same."""
    halves, full = steps(home, "halves.jsonl"), steps(home, "full.jsonl")
    assert [step.loss for step in halves] == pytest.approx([step.loss for step in full], abs=1e-6)
    assert [step.loss for step in steps(home)] != pytest.approx([step.loss for step in full], abs=1e-2)


@pytest.mark.slow
def test_members_together_are_members_alone(home: Path):
    specs = [
        tiny_spec(home / "base", home / "rows.jsonl", **{"val_set_size": 6, "eval_steps": 2, **fields})
        for fields in (*MIXED[2:5], MIXED[6])
    ]
    trainee = place_tiny(specs[0])
    members = [admit(trainee, slot, spec, home) for slot, spec in enumerate(specs)]
    train_all(trainee, members)
    for spec, member in zip(specs, members, strict=True):
        alone = place_tiny(spec)
        only = admit(alone, 0, spec, home)
        train_all(alone, [only])
        assert losses_of(member) == losses_of(only)
        assert_same_bits(state_of(trainee, member), state_of(alone, only))
