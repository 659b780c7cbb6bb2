"""A sweep over an encoder as it is published, with dropout of its own: one pack, and each trial ends as alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.alone import trained_alone
from tests.cluster.command import Command
from tests.cluster.conftest import ALONE_ON_ITS_RANK
from tests.cluster.made_sweeps import loaded, run_of, whole, write
from tests.unit.train.tiny_heads import head_spec, save_family, write_classified

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_ranks_of_a_classifier_are_swept_in_one_pack(on_head: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_family(tmp_path / "bert", "bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    write_classified(tmp_path / "texts.jsonl", 60)
    asked = {"val_set_size": 12, "learning_rate": 1e-2, "distributed": ALONE_ON_ITS_RANK}
    run = head_spec(tmp_path, "bert", "seq_cls", **asked, tracking={"system_metrics": False})
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
