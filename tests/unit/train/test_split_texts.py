"""Continued pre-training on texts longer than a row: trained as the same pieces cut by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raylora.data.batches import Batches
from raylora.data.sources.source import Source
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.spec.run import RunSpec
from tests.unit.data.made_rows import blocks_of
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.tiny_run import WORDS, build_tiny, open_rows, run_steps, save_base, tiny_spec

NUM_TOKENS = 24


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    save_base(folder / "base", num_hidden_layers=2)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 90))) for _ in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def spec_of(home: Path, **fields: Any) -> RunSpec:
    source = {"path": str(home / "rows.jsonl"), "type": "text"}
    settings = {"datasets": [source], "sequence_len": NUM_TOKENS, "excess_length_strategy": "split", **fields}
    return tiny_spec(home / "base", home / "rows.jsonl", **settings)


def cut_by_hand(home: Path, spec: RunSpec) -> TokenisedRows:
    """Rows of all tokens of the file, in order, as they would stand there had somebody cut the texts."""
    tokenizer, rows = small_tokenizer(), []
    for line in (home / "rows.jsonl").read_text().splitlines():
        ids = [*tokenizer(json.loads(line)["text"]).input_ids, tokenizer.eos_token_id]
        rows += blocks_of(ids, NUM_TOKENS)
    learned = [[1] * len(ids) for ids in rows]
    columns = {"input_ids": pa.array(rows, pa.list_(pa.int32())), "is_label": pa.array(learned, pa.list_(pa.uint8()))}
    return TokenisedRows.of([Source(spec.datasets[0], "", ())], [pa.table(columns)])


@pytest.mark.parametrize("packing", [False, True])
def test_losses_are_those_of_pieces_cut_by_hand(home: Path, packing: bool):
    spec = spec_of(home, sample_packing=packing)
    rows, _ = open_rows(spec, home / "cache")
    pad_id = small_tokenizer().pad_token_id
    by_hand = Batches(spec, cut_by_hand(home, spec), pad_id)
    assert rows.num_steps() == by_hand.num_steps()
    found = run_steps(build_tiny(spec), rows, range(rows.num_steps()))
    wanted = run_steps(build_tiny(spec), by_hand, range(by_hand.num_steps()))
    assert [(step.loss, step.grad_norm) for step in found] == [(step.loss, step.grad_norm) for step in wanted]
    assert found[-1].loss < found[0].loss
    cut, _ = open_rows(spec_of(home, excess_length_strategy="truncate"), home / "cache")
    num_cut = sum(batch.num_tokens for step in range(cut.num_steps()) for batch in cut.step(step, 0, 1))
    assert sum(step.num_tokens for step in found) > 2 * num_cut
