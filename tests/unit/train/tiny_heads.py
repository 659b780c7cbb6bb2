"""Runs with heads small enough for a test: random bases of three families, and rows whose classes can be learned."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    CamembertConfig,
    CamembertForMaskedLM,
    ElectraConfig,
    ElectraForPreTraining,
    PretrainedConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from raylora.spec.run import RunSpec
from tests.unit.data.small_tokenizer import PLAIN
from tests.unit.data.wordpiece import wordpiece_tokenizer
from tests.unit.train.tiny_run import WORDS, save_base, tiny_spec, write_pairs

LABELS = ("words", "numbers", "both")
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Of encoders, which draw by chance in training unless they are told not to."""
NO_DROPOUT = {"llama": {"classifier_dropout": 0.0}, "bert": QUIET, "roberta": QUIET}
FAMILIES = tuple(NO_DROPOUT)
ENCODERS = {
    "bert": (BertConfig, BertForPreTraining),
    "roberta": (RobertaConfig, RobertaForMaskedLM),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaForMaskedLM),
    "camembert": (CamembertConfig, CamembertForMaskedLM),
    "electra": (ElectraConfig, ElectraForPreTraining),
}
"""Classes under which encoders are published, by their type."""
MEMBERS: tuple[dict[str, Any], ...] = (
    {"lora_r": 4, "seed": 1},
    {"lora_r": 4, "seed": 2, "learning_rate": 1e-2, "weight_decay": 0.2},
    {"lora_r": 8, "seed": 3, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.2, "sample_packing": True},
    {"lora_r": 3, "seed": 4, "use_dora": True, "gradient_accumulation_steps": 2, "loraplus_lr_ratio": 4},
    {"lora_r": 40, "seed": 5, "adapter": "vera", "learning_rate": 2e-2},
    {"lora_r": 4, "seed": 6, "adapter": "adalora", "target_r": 2, "tinit": 1, "tfinal": 2},
    {"lora_r": 4, "seed": 7, "init_lora_weights": "eva"},
    {"lora_r": 4, "seed": 8, "init_lora_weights": "pissa", "use_rslora": True, "learning_rate": 1e-3},
    {"lora_r": 4, "seed": 9, "init_lora_weights": "pissa_niter_4", "learning_rate": 1e-3},
    {"lora_r": 4, "seed": 10, "init_lora_weights": "olora", "learning_rate": 1e-3},
    {"lora_r": 4, "seed": 11, "init_lora_weights": "gaussian"},
)
ENCODER_MEMBERS: tuple[dict[str, Any], ...] = (
    {"lora_r": 4, "seed": 1},
    {"lora_r": 4, "seed": 2, "learning_rate": 1e-2, "weight_decay": 0.2, "micro_batch_size": 3},
    {"lora_r": 8, "seed": 3, "lora_target_modules": ["query", "value"], "lora_dropout": 0.2, "max_steps": 3},
    {"lora_r": 3, "seed": 4, "use_dora": True, "gradient_accumulation_steps": 2, "init_lora_weights": "eva"},
)
QUANTIZED: tuple[dict[str, Any], ...] = ({"lora_r": 4, "seed": 20, "init_lora_weights": "loftq"},)
"""LoftQ, which a plain base has not."""


def save_family(folder: Path, family: str, **fields: Any) -> Path:
    """Save a random base as it is published: a language model, whose head is of no use here."""
    if family == "llama":
        return save_base(folder, pad_token_id=0, **fields)
    torch.manual_seed(0)
    tokenizer = wordpiece_tokenizer()
    make_config, model_class = ENCODERS[family]
    config: PretrainedConfig = make_config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=130,
        initializer_range=0.2,
        **{**SHAPE, **fields},
    )
    model_class(config).save_pretrained(folder)
    tokenizer.chat_template = PLAIN
    tokenizer.save_pretrained(folder)
    return folder


def write_classified(file: Path, num_rows: int, seed: int = 0) -> Path:
    """Write texts of words, of numbers or of both, which is their class."""
    draw = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        label = draw.randrange(len(LABELS))
        words = (WORDS[:9], WORDS[9:], WORDS)[label]
        rows.append({"text": " ".join(draw.choices(words, k=draw.randint(3, 12))), "label": LABELS[label]})
    return _write(file, rows)


def write_tagged(file: Path, num_rows: int, seed: int = 0) -> Path:
    """Write words with a class each: a word, a number, or the first of its sentence."""
    draw = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        words = draw.choices(WORDS, k=draw.randint(2, 12))
        rows.append({"tokens": words, "tags": [2, *(int(word.isdigit()) for word in words[1:])]})
    return _write(file, rows)


def save_home(folder: Path, families: Sequence[str] = FAMILIES, num_rows: int = 48) -> Path:
    """Save bases and rows of every task side by side."""
    for family in families:
        save_family(folder / family, family, **NO_DROPOUT[family])
    write_classified(folder / "texts.jsonl", num_rows)
    write_tagged(folder / "words.jsonl", num_rows)
    write_pairs(folder / "pairs.jsonl", num_rows)
    return folder


TASKS: dict[str, dict[str, Any]] = {
    "seq_cls": {"task_type": "seq_cls", "labels": LABELS, "type": "classification", "file": "texts.jsonl"},
    "token_cls": {"task_type": "token_cls", "labels": LABELS, "type": "tags", "file": "words.jsonl"},
    "reward": {"task_type": "seq_cls", "rl": "reward", "type": "preference", "file": "pairs.jsonl"},
}


def head_spec(home: Path, family: str, task: str, **fields: Any) -> RunSpec:
    """A run of a few steps on rows of its task."""
    asked = dict(TASKS[task])
    rows = home / asked.pop("file")
    source = {"path": str(rows), "type": asked.pop("type")}
    return tiny_spec(home / family, rows, **{"datasets": [source], "sequence_len": 64, **asked, **fields})


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
