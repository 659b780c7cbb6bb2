"""Ten steps from sources to targets against transformers' T5 with PEFT's adapter; the adapter in PEFT's own loader."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel

from raylora.data.collate import Batch
from raylora.model.adapter.bank import Adapter
from raylora.model.export import adapter_files
from raylora.model.rows.route import Span
from raylora.spec.run import RunSpec
from raylora.train.forward import Piece, not_training, scores_of
from raylora.train.trainee import Trainee
from tests.reference.peft_steps import BASES, RATES, SETTINGS, as_packed, train_in_peft
from tests.unit.train.tiny_run import build_tiny, open_rows, solo_step
from tests.unit.train.tiny_seq2seq import FAMILIES, save_seq2seq_home, seq2seq_spec, word_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seq2seq_home(tmp_path_factory.mktemp("seq2seq"))


def base_of(spec: RunSpec, adapted: Sequence[str]) -> PreTrainedModel:
    """The base as transformers loads it; where it is packed, with what packing leaves of weights."""
    model = AutoModelForSeq2SeqLM.from_pretrained(spec.base_model, dtype=torch.float32)
    return as_packed(model, spec, adapted)


def in_peft(spec: RunSpec, start: Adapter) -> PeftModel:
    """The run's model at its start."""
    kept = {name: start.config[name] for name in ("r", "lora_alpha", "target_modules", "task_type")}
    model = get_peft_model(base_of(spec, list(start.layers)), LoraConfig(**kept))
    set_peft_model_state_dict(model, start.tensors)
    return model.train()


def as_transformers_collates(batch: Batch, model: PeftModel) -> dict[str, torch.Tensor]:
    """Rows by transformers' own collator, which has the model shift the labels."""
    tokenizer = word_tokenizer()
    rows = []
    for ids_T, segments_T in zip(batch.input_ids_BT, batch.segment_ids_BT, strict=True):
        source, target = (ids_T[segments_T == side].tolist() for side in (1, 2))
        rows.append({"input_ids": source, "labels": target[1:]})
    padded = DataCollatorForSeq2Seq(tokenizer, model=model.base_model.model)([dict(row) for row in rows])
    return dict(padded)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_ten_steps_are_those_of_transformers_model_with_pefts_adapter(
    home: Path, family: str, base: str, tmp_path: Path
):
    spec = seq2seq_spec(home, family, **SETTINGS, **BASES[base])
    rows, _ = open_rows(spec, home / "cache")
    trainee = build_tiny(spec)
    start = trainee.bank.export(0)
    assert start.config["task_type"] == "SEQ_2_SEQ_LM"
    model = in_peft(spec, start)
    all_linear = get_peft_model(
        base_of(spec, ()), LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_2_SEQ_LM")
    )
    adapted = {
        name.partition("base_model.model.")[2] for name, _ in all_linear.named_modules() if name.endswith(".lora_A")
    }
    assert {f"{name}.lora_A" for name in start.layers} == adapted
    results = [solo_step(trainee, rows.step(step, 0, 1), step, rate) for step, rate in enumerate(RATES)]
    expected, expected_norms = train_in_peft(spec, model, rows, partial(as_transformers_collates, model=model))
    assert [result.loss for result in results] == pytest.approx(expected, abs=1e-5)
    assert [result.grad_norm for result in results] == pytest.approx(expected_norms, rel=1e-4)
    end = trainee.export(0).tensors
    assert min(float((end[name] - tensor).abs().max()) for name, tensor in start.tensors.items()) > 1e-3
    check_in_pefts_loader(spec, trainee, rows.step(11, 0, 1)[0], tmp_path)


KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "loftq": {"init_lora_weights": "loftq", "load_in_4bit": True},
    "vera": {"adapter": "vera", "lora_r": 40},
    "adalora": {"adapter": "adalora", "target_r": 2, "tinit": 1, "tfinal": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_what_pefts_loader_gives(home: Path, kind: str, tmp_path: Path):
    spec = seq2seq_spec(home, "t5", **SETTINGS, **KINDS[kind])
    rows, _ = open_rows(spec, home / "cache")
    trainee = build_tiny(spec)
    trainee.begin(0, spec, num_steps=6)
    for step in range(6):
        solo_step(trainee, rows.step(step, 0, 1), step, 1e-2)
    check_in_pefts_loader(spec, trainee, rows.step(11, 0, 1)[0], tmp_path)


def check_in_pefts_loader(spec: RunSpec, trainee: Trainee, batch: Batch, folder: Path) -> None:
    """What is published computes, over transformers' model, the losses that it was trained by."""
    for name, content in adapter_files(trainee.export(0)).items():
        (folder / name).write_bytes(content)
    adapted = list(trainee.export(0).layers)
    theirs = losses_of(PeftModel.from_pretrained(base_of(spec, adapted), folder).eval(), batch)
    without = losses_of(get_peft_model(base_of(spec, adapted), LoraConfig(target_modules=["q"])).eval(), batch)
    with not_training(trainee):
        (found,) = scores_of(trainee, [Piece(Span(0), batch)])
    torch.testing.assert_close(found.losses_N, theirs, rtol=0, atol=2e-5)
    assert float((theirs - without).abs().max()) > 1e-3


@torch.no_grad()
def losses_of(model: PeftModel, batch: Batch) -> torch.Tensor:
    """Of each labelled token."""
    padded = as_transformers_collates(batch, model)
    labels_BT = padded.pop("labels")
    is_label_BT = labels_BT != -100
    return nn.functional.cross_entropy(model(**padded).logits[is_label_BT], labels_BT[is_label_BT], reduction="none")
