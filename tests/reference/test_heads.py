"""Ten steps of a run with a head against transformers' model with PEFT's adapter; the adapter in PEFT's own loader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedModel

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.model.bank import Adapter
from raylora.model.export import adapter_files
from raylora.model.load import quant_format
from raylora.model.route import Span
from raylora.spec.run import RunSpec
from raylora.train.forward import Piece, not_training, scores_of
from raylora.train.trainee import Trainee
from tests.unit.train.tiny_heads import FAMILIES, head_spec, save_home
from tests.unit.train.tiny_run import build_tiny, open_rows, solo_step

RATES = [0.0, 4e-3, 5e-3, 4e-3, 4e-3, 3e-3, 2e-3, 2e-3, 1e-3, 1e-3]
SETTINGS = {"gradient_accumulation_steps": 2, "micro_batch_size": 3, "max_grad_norm": 1.4, "weight_decay": 0.05}
AUTO: dict[str, Any] = {
    "seq_cls": AutoModelForSequenceClassification,
    "token_cls": AutoModelForTokenClassification,
}
BASES = {"plain": {}, "int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_home(tmp_path_factory.mktemp("heads"))


def base_of(spec: RunSpec, adapted: Sequence[str]) -> PreTrainedModel:
    """The base as transformers loads it, with a fresh head; where it is packed, with what packing leaves of weights."""
    auto = AUTO[spec.task_type]
    model = auto.from_pretrained(spec.base_model, num_labels=spec.num_labels, dtype=torch.float32)
    form = quant_format(spec, torch.float32)
    for name in adapted if form is not None else ():
        layer = model.get_submodule(name)
        shape = (layer.out_features, layer.in_features)
        layer.weight.data = form.unpack(form.pack(layer.weight.data), shape, torch.float32)
    return model


def in_peft(spec: RunSpec, start: Adapter) -> PeftModel:
    """The run's model at its start."""
    kept = {name: start.config[name] for name in ("r", "lora_alpha", "target_modules", "task_type", "modules_to_save")}
    model = get_peft_model(base_of(spec, list(start.layers)), LoraConfig(**kept))
    set_peft_model_state_dict(model, start.tensors)
    return model.train()


def as_transformers_takes_it(spec: RunSpec, batch: Batch) -> dict[str, torch.Tensor]:
    labels = batch.labels_BT
    if spec.task_type == "seq_cls":
        labels = labels[labels != -100]
    mask = (batch.segment_ids_BT > 0).long()
    return {"input_ids": batch.input_ids_BT, "attention_mask": mask, "labels": labels}


def train_in_peft(spec: RunSpec, model: PeftModel, rows: Batches) -> tuple[list[float], list[float]]:
    """Losses and norms of steps over transformers' own loss: a mean of a micro-batch, weighed by its labels."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=spec.weight_decay)
    losses, norms = [], []
    for step, rate in enumerate(RATES):
        batches = rows.step(step, 0, 1)
        num_labels = sum(batch.num_label_tokens for batch in batches)
        optimizer.zero_grad()
        losses.append(0.0)
        for batch in batches:
            loss = model(**as_transformers_takes_it(spec, batch)).loss * batch.num_label_tokens / num_labels
            loss.backward()
            losses[-1] += loss.item()
        norms.append(float(nn.utils.clip_grad_norm_(trained, spec.max_grad_norm)))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return losses, norms


def ours(spec: RunSpec, rows: Batches) -> tuple[Trainee, Adapter, list[float], list[float]]:
    trainee = build_tiny(spec)
    start = trainee.bank.export(0)
    results = [solo_step(trainee, rows.step(step, 0, 1), step, rate) for step, rate in enumerate(RATES)]
    return trainee, start, [result.loss for result in results], [result.grad_norm for result in results]


CASES = [
    *((family, task, "plain") for family in FAMILIES for task in AUTO),
    *(("llama", "seq_cls", base) for base in ("int8", "nf4")),
    *(("bert", "seq_cls", base) for base in ("int8", "nf4")),
]


@pytest.mark.parametrize(("family", "task", "base"), CASES)
def test_ten_steps_are_those_of_transformers_model_with_pefts_adapter(
    home: Path, family: str, task: str, base: str, tmp_path: Path
):
    spec = head_spec(home, family, task, **SETTINGS, **BASES[base])
    rows, _ = open_rows(spec, home / "cache")
    trainee, start, losses, norms = ours(spec, rows)
    model = in_peft(spec, start)
    expected, expected_norms = train_in_peft(spec, model, rows)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    end = trainee.export(0).tensors
    moved = {name: float((end[name] - tensor).abs().max()) for name, tensor in start.tensors.items()}
    assert min(moved.values()) > 1e-3, "of adapter and head"
    for name, content in adapter_files(trainee.export(0)).items():
        (tmp_path / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(base_of(spec, list(start.layers)), tmp_path)
    batch = rows.step(11, 0, 1)[0]
    theirs = logits_of(loaded.eval(), spec, batch)
    with not_training(trainee):
        (found,) = scores_of(trainee, [Piece(Span(0), batch)])
    torch.testing.assert_close(found.logits_NL, theirs, rtol=0, atol=2e-5)


@torch.no_grad()
def logits_of(model: nn.Module, spec: RunSpec, batch: Batch) -> torch.Tensor:
    logits = model(**as_transformers_takes_it(spec, batch)).logits
    return logits if spec.task_type == "seq_cls" else logits[batch.labels_BT != -100]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reward_is_what_pefts_loader_gives(home: Path, family: str, tmp_path: Path):
    """Both texts of a pair, each on a line of its own."""
    spec = head_spec(home, family, "reward", micro_batch_size=3)
    rows, _ = open_rows(spec, home / "cache")
    trainee = build_tiny(spec)
    for step in range(3):
        solo_step(trainee, rows.step(step, 0, 1), step, 5e-3)
    for name, content in adapter_files(trainee.export(0)).items():
        (tmp_path / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(base_of(spec, ()), tmp_path).eval()
    (batch,) = rows.step(4, 0, 1)
    with not_training(trainee):
        (found,) = scores_of(trainee, [Piece(Span(0), batch)])
    texts = [
        ids[segments == segment][None]
        for ids, segments in zip(batch.input_ids_BT, batch.segment_ids_BT, strict=True)
        for segment in (1, 2)
    ]
    with torch.no_grad():
        theirs = torch.cat([loaded(input_ids=text).logits for text in texts])
    torch.testing.assert_close(found.logits_NL, theirs, rtol=0, atol=2e-5)


def test_a_bases_own_head_is_started_from_where_it_fits(home: Path, tmp_path: Path):
    """Published for the task with as many classes; not for another task, nor with more of them."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(home / "bert", num_labels=3)
    model.save_pretrained(home / "bert-classifies")
    open_tokenizer(home / "bert", home / "bert-classifies")
    name = "base_model.model.classifier.weight"

    def start(task: str, **fields: Any) -> torch.Tensor:
        return build_tiny(head_spec(home, "bert-classifies", task, **fields)).bank.export(0).tensors[name]

    assert torch.equal(start("seq_cls"), model.classifier.weight)
    assert not torch.equal(start("token_cls"), model.classifier.weight)
    assert start("seq_cls", labels=["words", "numbers", "both", "none"]).shape == (4, 32)
    assert not torch.equal(start("token_cls", seed=1), start("token_cls", seed=2))


def open_tokenizer(start: Path, end: Path) -> None:
    for file in start.glob("tokenizer*"):
        (end / file.name).write_bytes(file.read_bytes())
