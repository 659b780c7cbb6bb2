"""Runs from sources to targets small enough for a test: random T5s, a tokenizer that ends texts, rows of words."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from raylora.spec.run import RunSpec
from tests.unit.train.tiny_run import WORDS, tiny_spec

SHAPE = {"d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 2, "relative_attention_num_buckets": 8}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "t5": (T5Config, T5ForConditionalGeneration, {}),
    "flan-t5": (T5Config, T5ForConditionalGeneration, GATED),
    "mt5": (MT5Config, MT5ForConditionalGeneration, GATED),
}
"""T5's head is its embedding, scaled; the others have one of their own."""


@cache
def _made() -> str:
    vocab = {word: at for at, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return str(tokenizer.to_str())


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that puts an end behind each text, as T5's does."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_made()), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True, "loraplus_lr_ratio": 4},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa_niter-rslora": {"init_lora_weights": "pissa_niter_4", "use_rslora": True},
    "olora": {"init_lora_weights": "olora"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "loftq": {"init_lora_weights": "loftq", "load_in_4bit": True},
    "vera": {"adapter": "vera", "lora_r": 40, "learning_rate": 5e-2},
    "adalora": {"adapter": "adalora", "target_r": 2, "tinit": 1, "tfinal": 2},
    "nf4-recomputed": {"load_in_4bit": True, "gradient_checkpointing": True},
}
"""What is trained from a text to another, beside plain LoRA."""

OF_TWO_SIDES: dict[str, Any] = {"val_set_size": 8, "eval_steps": 2, "max_steps": 4}
TWO_SIDED_MEMBERS: tuple[dict[str, Any], ...] = (
    {**OF_TWO_SIDES, "lora_r": 4, "seed": 1},
    {**OF_TWO_SIDES, "lora_r": 4, "seed": 2, "learning_rate": 1e-2, "weight_decay": 0.2, "micro_batch_size": 3},
    {
        **OF_TWO_SIDES,
        **{"lora_r": 8, "lora_alpha": 5, "seed": 3, "lora_target_modules": ["q", "v"], "lora_dropout": 0.2},
        "max_steps": 3,
    },
    {**OF_TWO_SIDES, "lora_r": 3, "seed": 4, "use_dora": True, "gradient_accumulation_steps": 2},
)
"""Of a pack."""


def save_seq2seq(folder: Path, family: str, **fields: Any) -> Path:
    """Save a random base of a family; the same fields give the same weights."""
    make_config, model_class, own = FAMILIES[family]
    tokenizer = word_tokenizer()
    start = {"decoder_start_token_id": tokenizer.pad_token_id, "dropout_rate": 0.0}
    torch.manual_seed(0)
    model = model_class(make_config(vocab_size=len(tokenizer), **{**SHAPE, **start, **own, **fields}))
    if own:
        model.lm_head.weight = nn.Parameter(torch.randn(len(tokenizer), SHAPE["d_model"]) / SHAPE["d_model"] ** 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_questions(file: Path, num_rows: int, seed: int = 0) -> Path:
    """Write prompts of words and completions that are shorter or longer: their numbers, or else all words backwards."""
    draw = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        words = draw.choices(WORDS, k=draw.randint(1, 12))
        told = [word for word in words if word.isdigit()] or words[::-1] * 2
        rows.append({"prompt": " ".join(words), "completion": " ".join(told)})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def save_seq2seq_home(folder: Path, num_rows: int = 48) -> Path:
    """Save a base of each family and rows side by side."""
    for family in FAMILIES:
        save_seq2seq(folder / family, family)
    write_questions(folder / "questions.jsonl", num_rows)
    return folder


def seq2seq_spec(home: Path, family: str, **fields: Any) -> RunSpec:
    """A run of a few steps."""
    rows = home / "questions.jsonl"
    source = {"path": str(rows), "type": "completion"}
    asked = {"task_type": "seq_2_seq_lm", "datasets": [source], "sequence_len": 64, "lora_target_modules": "all-linear"}
    return tiny_spec(home / family, rows, **{**asked, **fields})
