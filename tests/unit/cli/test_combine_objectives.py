"""`combine` tries adapters on each run's rows by what that run minimised, whether the runs learned alike or not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.cluster.alone import loss_alone
from tests.unit.cli.conftest import Raylora
from tests.unit.cli.ended_runs import ATTENTION, ended
from tests.unit.cli.terminal import cells
from tests.unit.train.tiny_run import write_pairs, write_rated


def test_each_run_is_evaluated_by_what_it_minimised(raylora: Raylora, materials: Path, tmp_path: Path):
    pairs = write_pairs(tmp_path / "pairs.jsonl", 24)
    source = {"path": str(pairs), "type": "preference"}
    alike = {"rl": "dpo", "datasets": [source], "lora_target_modules": ATTENTION, "seed": 1}
    runs = [ended(materials, rl_beta=beta, **alike) for beta in (0.05, 2.0)]
    words = (*(run.run_id for run in runs), "--method", "linear", "--out", tmp_path / "out")
    told = raylora("combine", *words, "--json")
    assert told.code == 0, told.err
    losses = {each["adapter"]: each["losses"] for each in told.json["evaluation"]}
    wanted = {run.run_id: loss_alone(run.spec, run.uri, tmp_path) for run in runs}
    assert losses[runs[0].run_id] == losses[runs[1].run_id] == pytest.approx(wanted, rel=1e-5)
    assert abs(wanted[runs[0].run_id] - wanted[runs[1].run_id]) > 1e-2


def test_runs_that_learned_otherwise_are_each_evaluated_by_what_they_minimised(
    raylora: Raylora, materials: Path, tmp_path: Path
):
    pairs = [{"path": str(write_pairs(tmp_path / "pairs.jsonl", 24)), "type": "preference"}]
    rated = [{"path": str(write_rated(tmp_path / "rated.jsonl", 24)), "type": "unpaired_preference"}]
    in_peft = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ATTENTION}
    runs = {
        "sft": ended(materials, lora_r=16, lora_alpha=32, peft=in_peft, seed=1),
        "dpo": ended(materials, rl="dpo", rl_beta=0.5, datasets=pairs, lora_target_modules=ATTENTION, seed=2),
        "kto": ended(materials, rl="kto", datasets=rated, lora_target_modules=ATTENTION, seed=3),
        "orpo": ended(materials, rl="orpo", datasets=pairs, lora_target_modules=ATTENTION, seed=4),
    }
    words = ("combine", *(run.run_id for run in runs.values()), "--method", "linear")
    told = raylora(*words, "--out", tmp_path / "out", "--json")
    assert told.code == 0, told.err
    assert told.json["objectives"] == {run.run_id: kind for kind, run in runs.items()}
    losses = {each["adapter"]: each["losses"] for each in told.json["evaluation"]}
    for kind, run in runs.items():
        assert losses[run.run_id][run.run_id] == pytest.approx(loss_alone(run.spec, run.uri, tmp_path), rel=1e-5), kind
        assert abs(losses["combined"][run.run_id] - losses[run.run_id][run.run_id]) > 1e-4, kind
    assert losses["base"][runs["dpo"].run_id] == pytest.approx(math.log(2), rel=1e-5), "it is its own reference"
    rows = {row[0]: row[1:] for row in cells(raylora(*words, "--out", tmp_path / "for a person").out) if len(row) > 2}
    assert rows["adapter"] == [f"{run.run_id} ({kind})" for kind, run in runs.items()]
