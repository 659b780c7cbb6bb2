"""All weights trained by the command: stopped and gone on with as if never stopped, and two of them in a sweep."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import came_to, trained_alone
from tests.cluster.command import Command
from tests.cluster.conftest import ALONE_ON_ITS_RANK, SWEPT
from tests.cluster.made_sweeps import in_workplace, whole, write
from tests.cluster.undisturbed import client

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

FULL = {name: value for name, value in SWEPT.items() if name not in ("load_in_4bit", "lora_dropout")} | {
    "adapter": "full",
    "learning_rate": 1e-3,
}


def test_it_is_stopped_and_gone_on_with(in_workplace: Path, on_head: Command, tmp_path: Path):
    """Two workers that share the weights by FSDP2."""
    (in_workplace / "full.yaml").write_text(yaml.safe_dump(FULL | {"max_steps": 16, "eval_steps": 8, "save_steps": 8}))
    running = on_head.start("train", "full.yaml", "--json")
    running.wait_for("step 2/")
    running.interrupt()
    stopped = running.end()
    assert stopped.code == 130, stopped.err
    (run,) = (on_head.home / "store" / "runs").iterdir()
    assert not (run / "model").exists()
    ended = on_head.run("resume", run.name, "--json")
    assert ended.code == 0, ended.err
    result = ended.json
    assert result["adapter_uri"].endswith(f"{run.name}/model")
    spec = load_spec(in_workplace / "full.yaml").spec
    came_to(trained_alone(spec, tmp_path), result)
    model = AutoModelForCausalLM.from_pretrained(result["adapter_uri"])
    assert sum(weight.numel() for weight in model.parameters()) == result["trainable_parameters"]
    kept = {file.path for file in client(on_head).list_artifacts(result["mlflow_run_id"], "model")}
    assert {"model/model.safetensors", "model/config.json"} <= kept
    refused = on_head.run("generate", run.name, "--prompt", "hi", "--json")
    assert refused.code == 2 and "is a whole model" in refused.error
    said = on_head.run(*shlex.split(result["chat_command"])[1:])
    assert said.code == 0, said.err
    assert "the base answers" in said.err


def test_a_sweep_gives_adamw_and_galore_the_base_for_themselves(in_workplace: Path, on_head: Command, tmp_path: Path):
    run = write(in_workplace, "full-alone.yaml", FULL | {"distributed": ALONE_ON_ITS_RANK, "max_steps": 4})
    sweep = {
        "run": run,
        "searcher": "grid",
        "budget": {"steps": 4},
        "report_steps": 2,
        "space": {"_kind": {"choice": [{"learning_rate": 1e-3}, {"optimizer": "galore_adamw", "galore_rank": 4}]}},
    }
    name = write(in_workplace, "full-grid.yaml", sweep)
    result = whole(on_head.run("sweep", name, "--json"))
    assert [trial["status"] for trial in result["trials"]] == ["succeeded"] * 2
    assert result["trials"][0]["metric"] != result["trials"][1]["metric"]
    for trial in result["trials"]:
        assert (Path(trial["adapter_uri"]) / "model.safetensors").exists()
        changes = [f"{field}={json.dumps(value)}" for field, value in trial["config"].items()]
        alone = trained_alone(load_spec(in_workplace / run, changes).spec, tmp_path)
        assert trial["metric"] == pytest.approx(alone.progress.eval_loss, abs=1e-5)
