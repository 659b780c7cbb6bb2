"""Sweeps over an encoder and a T5 as published, with dropout of their own: one pack, and each trial ends as alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylora.spec.run import RunSpec
from tests.cluster.alone import trained_alone
from tests.cluster.command import Command
from tests.cluster.conftest import ALONE_ON_ITS_RANK
from tests.cluster.made_sweeps import loaded, run_of, whole, write
from tests.unit.train.tiny_heads import head_spec, save_family, write_classified
from tests.unit.train.tiny_seq2seq import save_seq2seq, seq2seq_spec, write_questions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


ASKED: dict[str, Any] = {
    "val_set_size": 12,
    "learning_rate": 1e-2,
    "distributed": ALONE_ON_ITS_RANK,
    "tracking": {"system_metrics": False},
}


def classifier(folder: Path) -> RunSpec:
    save_family(folder / "bert", "bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    write_classified(folder / "texts.jsonl", 60)
    return head_spec(folder, "bert", "seq_cls", **ASKED)


def writer(folder: Path) -> RunSpec:
    save_seq2seq(folder / "flan-t5", "flan-t5", dropout_rate=0.1)
    write_questions(folder / "questions.jsonl", 60)
    return seq2seq_spec(folder, "flan-t5", **ASKED)


@pytest.mark.parametrize("make", [classifier, writer])
def test_ranks_are_swept_in_one_pack(
    make: Callable[[Path], RunSpec], on_head: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = make(tmp_path)
    sweep = {
        "run": run.model_dump(mode="json", exclude_defaults=True, exclude={"max_steps"}),
        "searcher": "grid",
        "budget": {"steps": 6},
        "report_steps": 3,
        "slots": 3,
        "space": {"lora_r": {"choice": [2, 4, 8]}, "lora_alpha": {"ratio": 2, "of": "lora_r"}},
    }
    monkeypatch.chdir(tmp_path)
    name = write(tmp_path, "ranks.yaml", sweep)
    on_head.folder = tmp_path
    planned = on_head.run("sweep", name, "--plan", "--json")
    assert planned.json["groups"][0]["why_alone"] is None, planned.err
    result = whole(on_head.run("sweep", name, "--json"))
    assert (result["num_packs"], [trial["status"] for trial in result["trials"]]) == (1, ["succeeded"] * 3)
    spec = loaded(tmp_path, name)
    for trial in result["trials"]:
        alone = trained_alone(run_of(spec, trial), tmp_path / "cache")
        assert alone.progress.eval_loss == pytest.approx(trial["metric"], abs=1e-5)
