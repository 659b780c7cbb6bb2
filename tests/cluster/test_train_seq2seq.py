"""Whole runs from sources to targets: on two workers that share a T5, what its adapter is refused by; a wrong row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import APART, trained_alone
from tests.cluster.command import Command
from tests.cluster.refused import refused
from tests.cluster.undisturbed import client
from tests.unit.train.tiny_seq2seq import save_seq2seq_home, seq2seq_spec

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RUN = {
    "max_steps": 12,
    "eval_steps": 6,
    "val_set_size": 12,
    "micro_batch_size": 4,
    "learning_rate": 1e-2,
    "load_in_4bit": True,
    "distributed": {"strategy": "fsdp", "num_workers": 2, "cpus_per_worker": 1},
    "tracking": {"system_metrics": False},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seq2seq_home(tmp_path_factory.mktemp("seq2seq"))


def written(home: Path, name: str, **fields: Any) -> str:
    """The file of a run."""
    asked = seq2seq_spec(home, "flan-t5", **{**RUN, **fields}).model_dump(mode="json", exclude_defaults=True)
    (home / f"{name}.yaml").write_text(yaml.safe_dump(asked))
    return f"{name}.yaml"


def test_a_t5_is_trained_on_two_workers_that_share_it(home: Path, on_head: Command, tmp_path: Path):
    on_head.folder = home
    file = written(home, "run")
    for command in (("validate", file), ("estimate", file), ("inspect", file)):
        looked = on_head.run(*command, "--json")
        assert looked.code == 0, looked.out + looked.err
    ended = on_head.run("train", file, "--json")
    assert ended.code == 0, ended.err
    result = ended.json
    alone = trained_alone(load_spec(home / file).spec, tmp_path).progress
    assert result["eval_loss"] == pytest.approx(alone.eval_loss, abs=APART)
    assert result["eval_loss"] < result["eval_loss_before"] - 10 * APART
    folder = Path(result["adapter_uri"])
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_2_SEQ_LM", None)
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == result["trainable_parameters"]
    loaded = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(home / "flan-t5"), folder)
    named = dict(loaded.named_parameters())
    for name, tensor in tensors.items():
        assert torch.equal(named[name.replace(".weight", ".default.weight")], tensor), name
    run = client(on_head).get_run(result["mlflow_run_id"])
    assert {"eval_perplexity", "eval_token_accuracy"} <= run.data.metrics.keys()
    assert result["chat_command"] is None
    for words in (("generate", result["run_id"], "--prompt", "hi"), ("merge", result["run_id"])):
        out = ("--out", str(home / "merged")) if words[0] == "merge" else ()
        ended = on_head.run(*words, *out, "--json")
        assert ended.code != 0
        assert "was trained for SEQ_2_SEQ_LM. Allowed here: CAUSAL_LM" in ended.error
    assert not (home / "merged").exists()


def test_a_wrong_row_is_told_with_its_line(home: Path, newcomer: Command):
    """By what a run checks before it starts; `test_train_bad_input` has what a run leaves that fails there."""
    newcomer.folder = home
    rows = (home / "questions.jsonl").read_text().splitlines()
    (home / "wrong.jsonl").write_text("".join(f"{row}\n" for row in [*rows[:4], '{"prompt": "a", "completion": 3}']))
    source = f"datasets=[{{path: {home / 'wrong.jsonl'}, type: completion}}]"
    message = refused(newcomer, newcomer.run("validate", written(home, "wrong"), "--json", "--set", source))
    assert "wrong.jsonl, line 5: column 'completion' holds text, got int '3'" in message
