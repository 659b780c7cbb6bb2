"""Whole runs with a head: a decoder that classifies, an encoder that tags words, a reward; and a wrong class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import APART, trained_alone
from tests.cluster.command import Command
from tests.cluster.refused import refused
from tests.cluster.undisturbed import client
from tests.unit.train.tiny_heads import head_spec, save_home

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RUN = {
    "max_steps": 12,
    "eval_steps": 6,
    "val_set_size": 12,
    "micro_batch_size": 4,
    "learning_rate": 1e-2,
    "distributed": {"cpus_per_worker": 1},
    "tracking": {"system_metrics": False},
}

ADALORA = {"adapter": "adalora", "lora_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_home(tmp_path_factory.mktemp("heads"))


def written(home: Path, name: str, family: str, task: str, **fields: Any) -> str:
    """The file of a run."""
    spec = head_spec(home, family, task, **{**RUN, **fields})
    asked = spec.model_dump(mode="json", exclude_defaults=True)
    (home / f"{name}.yaml").write_text(yaml.safe_dump(asked))
    return f"{name}.yaml"


def adapter_of(result: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    folder = Path(result["adapter_uri"])
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    return tensors, json.loads((folder / "adapter_config.json").read_text())


def test_a_decoder_classifies_on_two_workers_that_share_it(home: Path, on_head: Command, tmp_path: Path):
    on_head.folder = home
    place = {"strategy": "fsdp", "num_workers": 2, "cpus_per_worker": 1}
    file = written(home, "decoder", "llama", "seq_cls", **{"load_in_4bit": True, "distributed": place})
    for command in (("validate", file), ("estimate", file), ("inspect", file)):
        looked = on_head.run(*command, "--json")
        assert looked.code == 0, looked.out + looked.err
    ended = on_head.run("train", file, "--json")
    assert ended.code == 0, ended.err
    result = ended.json
    alone = trained_alone(load_spec(home / file).spec, tmp_path).progress
    assert result["eval_loss"] == pytest.approx(alone.eval_loss, abs=APART)
    assert result["eval_loss"] != pytest.approx(result["eval_loss_before"], abs=10 * APART)
    tensors, config = adapter_of(result)
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert tensors["base_model.model.score.weight"].shape == (3, 64)
    assert sum(tensor.numel() for tensor in tensors.values()) == result["trainable_parameters"]
    run = client(on_head).get_run(result["mlflow_run_id"])
    assert {"eval_accuracy", "eval_f1", "train_accuracy"} <= run.data.metrics.keys()
    assert run.data.tags["raylora.labels"] == "words,numbers,both"
    base = AutoModelForSequenceClassification.from_pretrained(home / "llama", num_labels=3)
    loaded = PeftModel.from_pretrained(base, result["adapter_uri"])
    assert torch.equal(loaded.base_model.model.score.weight, tensors["base_model.model.score.weight"])
    assert result["chat_command"] is None
    for words in (("generate", result["run_id"], "--prompt", "hi"), ("merge", result["run_id"])):
        out = ("--out", str(home / "merged")) if words[0] == "merge" else ()
        ended = on_head.run(*words, *out, "--json")
        assert ended.code != 0
        assert "was trained for SEQ_CLS, with a head beside it. Allowed here: CAUSAL_LM" in ended.error
    assert not (home / "merged").exists()


@pytest.mark.parametrize(
    ("family", "task", "kind"), [("bert", "token_cls", ADALORA), ("roberta", "reward", {})], ids=["adalora", "reward"]
)
def test_an_encoder_is_trained_to_its_end(home: Path, on_head: Command, family: str, task: str, kind: dict[str, Any]):
    on_head.folder = home
    ended = on_head.run("train", written(home, f"{family}-{task}", family, task, **kind), "--json")
    assert ended.code == 0, ended.err
    assert ended.json["eval_loss"] < ended.json["eval_loss_before"]
    tensors, config = adapter_of(ended.json)
    assert config["modules_to_save"] == ["classifier"]
    assert any(name.startswith("base_model.model.classifier.") for name in tensors)
    pictures = {file.path for file in client(on_head).list_artifacts(ended.json["mlflow_run_id"])}
    assert ("ranks.png" in pictures) == bool(kind)
    if not kind:
        assert ended.json["ranks_by_layer"] is None
        return
    ranks = ended.json["ranks_by_layer"]
    assert sum(ranks.values()) == kind["target_r"] * len(ranks)
    assert {f"base_model.model.{name}.lora_E" for name in ranks} <= tensors.keys()


def test_a_wrong_class_is_told_with_its_line(home: Path, newcomer: Command):
    """By what a run checks before it starts; `test_train_bad_input` has what a run leaves that fails there."""
    newcomer.folder = home
    rows = (home / "texts.jsonl").read_text().splitlines()
    wrong = [json.loads(row) | ({"label": 3} if at == 4 else {}) for at, row in enumerate(rows)]
    (home / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wrong))
    file = written(home, "wrong", "llama", "seq_cls")
    source = f"datasets=[{{path: {home / 'wrong.jsonl'}, type: classification}}]"
    message = refused(newcomer, newcomer.run("validate", file, "--json", "--set", source))
    assert "wrong.jsonl, line 5: label: got 3; allowed by labels: words, numbers, both, or 0 to 2" in message
