"""Ten steps and evaluations of weighted messages against torch's cross-entropy, weighed by hand, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from raylora.data.collate import Batch
from raylora.train.evaluate import evaluate
from tests.reference.chat_oracle import chatml, weighed_tokens
from tests.reference.naive_lora import add_naive_lora, base_of
from tests.reference.tiny_lora import ADAMW, RATES, ours, spec_of, steps_of
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.tiny_run import build_tiny, open_rows, save_base, write_weighted

WEIGHTS = {"fractions": (0, 0.1, 0.5, 1, None), "masks": (0, 1, None)}
WAYS: dict[str, dict[str, Any]] = {
    "parts": {"micro_batch_size": 2, "gradient_accumulation_steps": 3},
    "whole": {"micro_batch_size": 6, "gradient_accumulation_steps": 1},
    "binned": {"sample_packing": True},
    "nf4": {"load_in_4bit": True},
    "peft": {"adapter_bank": "peft"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("weights") / "base", num_hidden_layers=2)


def save_home(base: Path, folder: Path, weights: str) -> Path:
    (folder / "base").symlink_to(base)
    write_weighted(folder / "rows.jsonl", 60, WEIGHTS[weights])
    write_weighted(folder / "validation.jsonl", 9, WEIGHTS[weights], seed=1)
    return folder


def rows_by_hand(file: Path) -> list[tuple[Tensor, Tensor]]:
    """Ids of each row, and how much each of its tokens counts."""
    tokenizer, found = small_tokenizer(), []
    for line in file.read_text().splitlines():
        messages = json.loads(line)["messages"]
        weights = [1.0 if (weight := message.get("weight")) is None else weight for message in messages[1::2]]
        ids, counted = weighed_tokens(tokenizer, chatml(messages), weights)
        found.append((torch.tensor(ids), torch.tensor(counted, dtype=torch.float64)))
    return found


def summed(model: nn.Module, rows: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each row the weighted sum of its tokens' losses, and what they weigh."""
    for ids_T, weights_T in rows:
        logits = model(input_ids=ids_T[None]).logits[0, :-1].double()
        yield (weights_T[1:] * F.cross_entropy(logits, ids_T[1:], reduction="none")).sum(), weights_T[1:].sum()


def rows_in(batches: Sequence[Batch]) -> list[int]:
    return [row for batch in batches for line in batch.row_ids for row in line]


def by_hand(
    model: LlamaForCausalLM, rows: Sequence[tuple[Tensor, Tensor]], steps: Sequence[list[int]], max_norm: float
) -> tuple[list[float], list[float]]:
    """Losses and norms of steps, each over some rows."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses, norms = ADAMW(trained), [], []
    for step, rate in zip(steps, RATES, strict=True):
        optimizer.zero_grad()
        sums, weighs = zip(*summed(model, [rows[row] for row in step]), strict=True)
        loss = torch.stack(sums).sum() / torch.stack(weighs).sum()
        loss.backward()
        losses.append(loss.item())
        norms.append(float(nn.utils.clip_grad_norm_(trained, max_norm)))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return losses, norms


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_ten_steps_are_those_of_a_loss_weighed_by_hand(base: Path, tmp_path: Path, weights: str, way: str):
    home = save_home(base, tmp_path, weights)
    spec = spec_of(home, **WAYS[way])
    start, losses, norms, trainee = ours(spec, home)
    model = base_of(spec)
    add_naive_lora(model, start.tensors, spec.lora_alpha)
    batches = steps_of(spec, home)
    assert any(batch.weights_BT is not None for step in batches for batch in step) == (weights == "fractions")
    rows = rows_by_hand(home / "rows.jsonl")
    expected, expected_norms = by_hand(model, rows, [rows_in(step) for step in batches], spec.max_grad_norm)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert max(norms) > spec.max_grad_norm, "none was clipped"
    assert max(float(t.abs().max()) for name, t in trainee.bank.export(0).tensors.items() if "lora_B" in name) > 1e-2


@pytest.mark.parametrize("way", ["parts", "binned"])
def test_validation_is_weighed_as_training_is(base: Path, tmp_path: Path, way: str):
    home = save_home(base, tmp_path, "fractions")
    spec = spec_of(home, test_datasets=[{"path": str(home / "validation.jsonl")}], **WAYS[way])
    _, validation = open_rows(spec, home / "cache")
    assert validation is not None
    found = evaluate(build_tiny(spec), {0: validation})[0]
    with torch.no_grad():
        sums, weighs = zip(*summed(base_of(spec), rows_by_hand(home / "validation.jsonl")), strict=True)
    loss = torch.stack(sums).sum() / torch.stack(weighs).sum()
    assert found.loss == pytest.approx(loss.item(), abs=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-5)
