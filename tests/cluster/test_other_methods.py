"""Methods and objectives by command that have packs or runs of their own; each comes to what it comes to alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import came_to, trained_alone
from tests.cluster.command import Command
from tests.cluster.conftest import ALONE_ON_ITS_RANK, SWEPT
from tests.cluster.made_sweeps import whole, write
from tests.unit.train.tiny_run import write_pairs, write_rated

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SHORT = {"distributed": ALONE_ON_ITS_RANK, "max_steps": 4, "sample_packing": False}


@pytest.fixture
def command(workplace: Path, on_head: Command, tmp_path: Path) -> Command:
    """In a folder of its own, with rows of both kinds of preference."""
    write_pairs(tmp_path / "pairs.jsonl", 60)
    write_rated(tmp_path / "rated.jsonl", 60)
    (tmp_path / "base").symlink_to(workplace / "base")
    return Command(tmp_path, on_head.home, on_head.env)


def of_pairs(file: str = "pairs.jsonl", kind: str = "preference") -> dict[str, Any]:
    return SWEPT | SHORT | {"datasets": [{"path": file, "type": kind}], "rl_beta": 0.5}


def test_a_sweep_over_objectives_has_a_pack_for_each(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    space = {"rl": {"choice": ["dpo", "ipo", "orpo"]}, "learning_rate": {"choice": [1e-3, 5e-3]}}
    write(tmp_path, "run.yaml", of_pairs() | {"rl": "dpo"})
    sweep = {"run": "run.yaml", "searcher": "grid", "budget": {"steps": 4}, "report_steps": 2, "slots": 2}
    result = whole(command.run("sweep", write(tmp_path, "sweep.yaml", sweep | {"space": space}), "--json"))
    assert result["num_packs"] == 3 and len(result["trials"]) == 6
    for trial in result["trials"]:
        changes = [f"{name}={json.dumps(value)}" for name, value in trial["config"].items()]
        alone = trained_alone(load_spec(tmp_path / "run.yaml", changes).spec, tmp_path)
        assert alone.progress.eval_loss == pytest.approx(trial["metric"], abs=1e-5), trial["config"]


def test_a_run_of_kto_with_a_block_of_peft(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    peft = {"peft_type": "LOHA", "r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    changes = of_pairs("rated.jsonl", "unpaired_preference") | {"rl": "kto", "peft": peft}
    without = ("lora_r", "lora_alpha", "lora_dropout")
    name = write(tmp_path, "run.yaml", {field: value for field, value in changes.items() if field not in without})
    result = whole(command.run("train", name, "--json"))
    came_to(trained_alone(load_spec(tmp_path / name).spec, tmp_path), result, apart=1e-5)
    assert json.loads((Path(result["adapter_uri"]) / "adapter_config.json").read_text())["peft_type"] == "LOHA"
