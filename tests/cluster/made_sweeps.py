"""Sweeps of the command that are small enough for a test, what comes of them, and what they leave in the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from raylora.spec.load_sweep import load_sweep
from raylora.spec.sweep import SweepSpec
from raylora.spec.trial import trial_spec
from raylora.store.blob import open_store
from raylora.store.sweeps import SweepRecord, list_sweeps
from raylora.train.forward import padded_inputs
from tests.cluster.command import Command, Ended
from tests.unit.train.tiny_run import open_rows


def write(folder: Path, name: str, sweep: dict[str, Any]) -> str:
    """Write a sweep's file; returns its name."""
    (folder / name).write_text(yaml.safe_dump(sweep))
    return name


def whole(ended: Ended) -> dict[str, Any]:
    """The result of a sweep that came to its end."""
    assert ended.code == 0, ended.out[-2000:] + ended.err[-3000:]
    return ended.json


def the_record(command: Command) -> SweepRecord:
    """The only sweep in the command's home."""
    (record,) = list_sweeps(open_store(str(command.home / "store")))
    return record


def client(command: Command) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{command.home / 'mlflow.db'}")


def loaded(folder: Path, name: str, overrides: Sequence[str] = ()) -> SweepSpec:
    return load_sweep(folder / name, overrides).spec


def ends(result: dict[str, Any]) -> list[tuple[str, str, int, float | None]]:
    """How each trial ended."""
    return [(trial["trial_id"], trial["status"], trial["steps"], trial["metric"]) for trial in result["trials"]]


@torch.no_grad()
def loss_in_peft(sweep: SweepSpec, config: dict[str, Any], adapter_uri: str, cache: Path) -> float:
    """Loss of an adapter on the sweep's validation rows: transformers' own forward, PEFT's modules, torch's loss."""
    spec = trial_spec(sweep, config)
    _, validation = open_rows(spec, cache)
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=spec.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(spec.base_model, quantization_config=quantized, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter_uri).eval()
    total, count = 0.0, 0
    for batch in validation.once(0, 1):
        logits_BTV = model(**padded_inputs(batch, torch.float32)).logits
        total += float(cross_entropy(logits_BTV.flatten(0, 1), batch.labels_BT.flatten(), reduction="sum"))
        count += batch.num_label_tokens
    return total / count


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Paths of the configurations are relative to it."""
    monkeypatch.chdir(workplace)
    return workplace
