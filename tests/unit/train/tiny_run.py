"""Runs small enough for a test: a random Llama of three layers, chats of random words, float32 on the CPU."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from raylora.data.batches import Batches, open_batches
from raylora.data.collate import Batch
from raylora.data.prepare import prepare
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.spec.run import RunSpec
from raylora.train.build import build
from raylora.train.step import Share, StepResult, train_step
from raylora.train.trainee import Trainee
from tests.unit.data.small_tokenizer import small_tokenizer

BASE_NAME = ("tiny/llama", None)
WORDS = ["the", "model", "reads", "a", "question", "and", "writes", "an", "answer", *"0123456789"]
ROLES = ("user", "assistant", "assistant")
CPU = torch.device("cpu")


def save_base(folder: Path, **fields: object) -> Path:
    """Save a random Llama with a tokenizer; the same fields give the same weights."""
    tokenizer = small_tokenizer()
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": len(tokenizer)}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    # Wide weights: losses of a model that starts almost uniform would hardly tell a wrong base from the right one.
    config = LlamaConfig(**{**shape, **heads, "initializer_range": 0.1, "tie_word_embeddings": False, **fields})
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_opt(folder: Path) -> Path:
    """Save a base whose own dropout is on in training."""
    torch.manual_seed(0)
    vocab_size = len(small_tokenizer())
    shape = {"hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "dropout": 0.2}
    OPTForCausalLM(OPTConfig(vocab_size=vocab_size, num_attention_heads=2, **shape)).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def save_gpt2(folder: Path) -> Path:
    """Save a base whose linear layers are stored transposed."""
    torch.manual_seed(0)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "vocab_size": len(small_tokenizer())}
    GPT2LMHeadModel(GPT2Config(**shape, **dropout, initializer_range=0.1)).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def write_chats(file: Path, num_rows: int, seed: int = 0) -> Path:
    """Write chats of 5 to 30 words."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, 12)))

    rows = [[{"role": "user", "content": text()}, {"role": "assistant", "content": text()}] for _ in range(num_rows)]
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    return file


def write_pairs(file: Path, num_rows: int, seed: int = 0) -> Path:
    """Write questions with two answers: to learn is that what is chosen are numbers."""
    draw = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        words = [" ".join(draw.choices(of, k=draw.randint(2, 9))) for of in (WORDS, WORDS[9:], WORDS[:9])]
        asked, *answers = [[{"role": role, "content": text}] for role, text in zip(ROLES, words, strict=True)]
        rows.append({"prompt": asked, "chosen": answers[0], "rejected": answers[1]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_rated(file: Path, num_rows: int, seed: int = 0) -> Path:
    """Write questions with one answer each: to learn is that numbers are desirable and other words are not."""
    draw = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        is_desirable = draw.random() < 0.5
        words = [draw.choices(of, k=draw.randint(2, 9)) for of in (WORDS, WORDS[9:] if is_desirable else WORDS[:9])]
        asked, answer = ([{"role": role, "content": " ".join(text)}] for role, text in zip(ROLES, words, strict=False))
        rows.append({"prompt": asked, "completion": answer, "label": is_desirable})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_weighted(file: Path, num_rows: int, weights: Sequence[float | None], seed: int = 0) -> Path:
    """Write chats of one to three turns; each of the assistant's has one of the weights, and in no row are all 0."""
    draw = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        drawn = draw.choices(weights, k=draw.randint(1, 3))
        if not any(weight is None or weight for weight in drawn):
            drawn[0] = max(weight or 0 for weight in weights)
        messages = []
        for weight in drawn:
            asked, told = (" ".join(draw.choices(WORDS, k=draw.randint(2, 8))) for _ in range(2))
            answer = {"role": "assistant", "content": told, **({} if weight is None else {"weight": weight})}
            messages += [{"role": "user", "content": asked}, answer]
        rows.append({"messages": messages})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def save_materials(folder: Path, num_rows: int, **fields: object) -> Path:
    """Save a base and chats side by side, as ``base`` and ``rows.jsonl``; returns the folder."""
    save_base(folder / "base", **fields)
    write_chats(folder / "rows.jsonl", num_rows)
    return folder


def tiny_spec(base: Path, rows: Path, **fields: object) -> RunSpec:
    """A run of a few steps at a rate that moves the loss."""
    settings = {
        "base_model": str(base),
        "datasets": [{"path": str(rows)}],
        "sequence_len": 128,
        "dtype": "float32",
        "lora_r": 4,
        "lora_alpha": 8,
        "micro_batch_size": 2,
        "learning_rate": 5e-3,
        "lr_scheduler": "linear",
        "warmup_steps": 1,
        "weight_decay": 0.01,
        "max_steps": 10,
    }
    return RunSpec.model_validate({**settings, **fields})


def open_rows(spec: RunSpec, cache: Path) -> tuple[Batches, Batches | None]:
    """Batches of training and of validation rows."""
    base = Path(spec.base_model)
    prepared = prepare(spec, base, cache)
    tokenizer = None if spec.reads_values else load_tokenizer(base)
    train = open_batches(spec, tokenizer, prepared.train)
    return train, None if prepared.validation is None else open_batches(spec, tokenizer, prepared.validation)


def build_tiny(spec: RunSpec) -> Trainee:
    return build(spec, Path(spec.base_model), BASE_NAME, CPU)


def run_steps(trainee: Trainee, rows: Batches, steps: range, rate: float = 5e-3) -> list[StepResult]:
    """Train some steps at a constant rate."""
    rank, world_size = trainee.ranks.rank, trainee.ranks.world_size
    return [
        solo_step(
            trainee,
            rows.step(step, rank, world_size),
            step,
            rate,
            rows.mismatched(step, rank, world_size) if trainee.needs_point else (),
        )
        for step in steps
    ]


def assert_rows_apart_are_rows_together(spec: RunSpec, rows: Batches) -> StepResult:
    """A step of six rows, in one micro-batch and in six: neither padding nor neighbours are seen. Returns the first."""
    together = solo_step(build_tiny(spec), rows.step(0, 0, 1), 0, 0.0)
    single = [one for rank in range(6) for one in rows.step(0, rank, 6)]
    apart = solo_step(build_tiny(spec), single, 0, 0.0)
    assert apart.loss == pytest.approx(together.loss, abs=1e-5)
    assert apart.grad_norm == pytest.approx(together.grad_norm, rel=1e-4)
    return together


def solo_step(
    trainee: Trainee, batches: Sequence[Batch], step: int, rate: float, mismatched: Sequence[Batch] = ()
) -> StepResult:
    """One step of the run in slot 0."""
    result = train_step(trainee, [Share(0, step, rate, batches, mismatched=mismatched)])[0]
    if isinstance(result, Exception):
        raise result
    return result
