"""What transformers and PEFT make of a run with a head: its model, its steps, what is published of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.model.adapter.bank import Adapter
from raylora.model.export import adapter_files
from raylora.model.rows.route import Span
from raylora.spec.run import RunSpec
from raylora.train.forward import Piece, not_training, scores_of
from raylora.train.trainee import Trainee
from tests.reference.peft_steps import RATES, as_packed, train_in_peft
from tests.unit.train.tiny_run import build_tiny, open_rows, solo_step

AUTO: dict[str, Any] = {
    "seq_cls": AutoModelForSequenceClassification,
    "token_cls": AutoModelForTokenClassification,
    "image_cls": AutoModelForImageClassification,
    "audio_cls": AutoModelForAudioClassification,
}


def base_of(spec: RunSpec, adapted: Sequence[str]) -> PreTrainedModel:
    """The base as transformers loads it, with a fresh head; where it is packed, with what packing leaves of weights."""
    auto = AUTO[spec.task_type]
    kept = {"num_labels": spec.num_labels, "ignore_mismatched_sizes": True}
    model = auto.from_pretrained(spec.base_model, dtype=torch.float32, **kept)
    return as_packed(model, spec, adapted)


def in_peft(spec: RunSpec, start: Adapter) -> PeftModel:
    """The run's model at its start."""
    kept = {name: start.config[name] for name in ("r", "lora_alpha", "target_modules", "task_type", "modules_to_save")}
    model = get_peft_model(base_of(spec, list(start.layers)), LoraConfig(**kept))
    set_peft_model_state_dict(model, start.tensors)
    return model.train()


def as_transformers_takes_it(spec: RunSpec, batch: Batch) -> dict[str, torch.Tensor]:
    labels = batch.labels_BT
    if spec.task_type != "token_cls":
        labels = labels[labels != -100]
    if batch.values is not None:
        name = "pixel_values" if spec.task_type == "image_cls" else "input_values"
        return {name: batch.values, "labels": labels}
    mask = (batch.segment_ids_BT > 0).long()
    return {"input_ids": batch.input_ids_BT, "attention_mask": mask, "labels": labels}


def ours(spec: RunSpec, rows: Batches) -> tuple[Trainee, Adapter, list[float], list[float]]:
    trainee = build_tiny(spec)
    start = trainee.bank.export(0)
    results = [solo_step(trainee, rows.step(step, 0, 1), step, rate) for step, rate in enumerate(RATES)]
    return trainee, start, [result.loss for result in results], [result.grad_norm for result in results]


def check_ten_steps(spec: RunSpec, home: Path, out: Path) -> None:
    """Losses, norms and the adapter that is published; `out` is an empty folder."""
    rows, _ = open_rows(spec, home / "cache")
    trainee, start, losses, norms = ours(spec, rows)
    model = in_peft(spec, start)
    expected, expected_norms = train_in_peft(spec, model, rows, partial(as_transformers_takes_it, spec))
    assert losses == pytest.approx(expected, abs=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    end = trainee.export(0).tensors
    moved = {name: float((end[name] - tensor).abs().max()) for name, tensor in start.tensors.items()}
    assert min(moved.values()) > 1e-3, "of adapter and head"
    for name, content in adapter_files(trainee.export(0)).items():
        (out / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(base_of(spec, list(start.layers)), out)
    batch = rows.step(11, 0, 1)[0]
    theirs = logits_of(loaded.eval(), spec, batch)
    with not_training(trainee):
        (found,) = scores_of(trainee, [Piece(Span(0), batch)])
    torch.testing.assert_close(found.logits_NL, theirs, rtol=0, atol=2e-5)


@torch.no_grad()
def logits_of(model: nn.Module, spec: RunSpec, batch: Batch) -> torch.Tensor:
    logits = model(**as_transformers_takes_it(spec, batch)).logits
    return logits[batch.labels_BT != -100] if spec.task_type == "token_cls" else logits
