"""Whole runs on files: a quantized vision transformer on two workers learns digits, one of spectrograms vowels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForAudioClassification, AutoModelForImageClassification

from raylora.spec.reading.load import load_spec
from tests.cluster.alone import APART, trained_alone
from tests.cluster.command import Command
from tests.cluster.refused import refused
from tests.cluster.undisturbed import client
from tests.unit.train.tiny_audio import audio_spec, save_ast, write_vowels
from tests.unit.train.tiny_images import DIGITS, image_spec, save_vit, write_digits

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RUN = {
    "load_in_4bit": True,
    "max_steps": 120,
    "eval_steps": 60,
    "micro_batch_size": 8,
    "learning_rate": 1e-2,
    "lora_r": 8,
    "lora_alpha": 16,
    "distributed": {"strategy": "fsdp", "num_workers": 2, "cpus_per_worker": 1},
    "tracking": {"system_metrics": False},
}
HELD_OUT = 80


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of other people than those that are learned from: they lie in the order in which they were collected."""
    folder = tmp_path_factory.mktemp("images")
    save_vit(folder / "vit")
    write_digits(folder / "digits.jsonl", range(320))
    write_digits(folder / "held-out.jsonl", range(1797 - HELD_OUT, 1797))
    return folder


def written(home: Path, name: str, rows: str = "digits.jsonl") -> str:
    """The file of a run."""
    sources = {
        field: [{"path": str(home / file), "type": "image"}]
        for field, file in (("datasets", rows), ("test_datasets", "held-out.jsonl"))
    }
    asked = image_spec(home, **RUN, **sources).model_dump(mode="json", exclude_defaults=True)
    (home / f"{name}.yaml").write_text(yaml.safe_dump(asked))
    return f"{name}.yaml"


def test_digits_that_were_not_seen_are_told_apart(home: Path, on_head: Command, tmp_path: Path):
    on_head.folder = home
    file = written(home, "digits")
    for command in (("validate", file), ("estimate", file), ("inspect", file)):
        looked = on_head.run(*command, "--json")
        assert looked.code == 0, looked.out + looked.err
    ended = on_head.run("train", file, "--json")
    assert ended.code == 0, ended.err
    result = ended.json
    assert result["eval_metrics"]["eval_accuracy"] > 0.5, "chance is a tenth"
    alone = trained_alone(load_spec(home / file).spec, tmp_path).progress
    assert result["eval_loss"] == pytest.approx(alone.eval_loss, abs=30 * APART)
    folder = Path(result["adapter_uri"])
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    assert json.loads((folder / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]
    run = client(on_head).get_run(result["mlflow_run_id"])
    assert {"eval_accuracy", "eval_f1", "train_accuracy"} <= run.data.metrics.keys()
    assert run.data.tags["raylora.labels"] == ",".join(DIGITS)
    base = AutoModelForImageClassification.from_pretrained(home / "vit", num_labels=10, ignore_mismatched_sizes=True)
    loaded = PeftModel.from_pretrained(base, folder)
    assert torch.equal(loaded.base_model.model.classifier.weight, tensors["base_model.model.classifier.weight"])
    for words in (("generate", result["run_id"], "--prompt", "hi"), ("merge", result["run_id"])):
        out = ("--out", str(home / "merged")) if words[0] == "merge" else ()
        ended = on_head.run(*words, *out, "--json")
        assert ended.code != 0, ended.out
    assert not (home / "merged").exists()
    exported = on_head.run("export", result["run_id"], "--for", "peft", "--out", str(home / "exported"), "--json")
    assert exported.code == 0, exported.err
    card = (home / "exported" / "README.md").read_text()
    assert "num_labels=10, ignore_mismatched_sizes=True)" in card
    assert "AutoModelForImageClassification" in card


def test_vowels_are_told_apart(on_head: Command, tmp_path: Path):
    save_ast(tmp_path / "ast")
    write_vowels(tmp_path / "vowels.jsonl", 60)
    write_vowels(tmp_path / "held-out.jsonl", 24, seed=1000)
    on_head.folder = tmp_path
    held_out = [{"path": str(tmp_path / "held-out.jsonl"), "type": "audio"}]
    alone = {"cpus_per_worker": 1}
    fields = {**RUN, "max_steps": 40, "eval_steps": 40, "distributed": alone, "test_datasets": held_out}
    asked = audio_spec(tmp_path, **fields).model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "vowels.yaml").write_text(yaml.safe_dump(asked))
    ended = on_head.run("train", "vowels.yaml", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["eval_metrics"]["eval_accuracy"] > 0.6, "chance is a third"
    base = AutoModelForAudioClassification.from_pretrained(tmp_path / "ast", num_labels=3, ignore_mismatched_sizes=True)
    tensors = safetensors.torch.load_file(Path(ended.json["adapter_uri"]) / "adapter_model.safetensors")
    head = PeftModel.from_pretrained(base, ended.json["adapter_uri"]).base_model.model.classifier
    assert torch.equal(head.dense.weight, tensors["base_model.model.classifier.dense.weight"])


def test_an_image_that_is_not_there_is_told_with_its_line(home: Path, newcomer: Command):
    """By what a run checks before it starts; `test_train_bad_input` has what a run leaves that fails there."""
    newcomer.folder = home
    rows = (home / "digits.jsonl").read_text().splitlines()
    rows[4] = json.dumps({"image": "images/lost.png", "label": 4})
    (home / "lost.jsonl").write_text("\n".join(rows))
    message = refused(newcomer, newcomer.run("validate", written(home, "lost", "lost.jsonl"), "--json"))
    assert "lost.jsonl, line 5: image: images/lost.png cannot be read (No such file or directory)" in message
