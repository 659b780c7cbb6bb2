"""Texts that are too long become pieces: nothing is lost, everything is counted, a text stays on one side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.data.prepare import Prepared, prepare
from raylora.data.sources.examples import Passage
from raylora.data.tokens.encode import Encoder
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.errors import DataError
from tests.unit.data.made_rows import blocks_of, run_spec
from tests.unit.data.small_tokenizer import saved, small_tokenizer

TEXTS = st.text(st.sampled_from("ab 1\n.é🙂"), max_size=80)


def prepared(folder: Path, texts: list[str], adds_bos: bool = False, **fields: Any) -> Prepared:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    base = saved(small_tokenizer(adds_bos=adds_bos), folder / "base")
    settings = {"sequence_len": 8, "excess_length_strategy": "split", **fields}
    spec = run_spec(datasets=[{"path": str(folder / "rows.jsonl"), "type": "text"}], **settings)
    return prepare(spec, base, folder / "cache")


def whole(text: str, adds_bos: bool = False) -> list[int]:
    """The tokenizer's own output for a text, and the token that ends it."""
    tokenizer = small_tokenizer(adds_bos=adds_bos)
    return [*tokenizer(text).input_ids, tokenizer.eos_token_id]


def ids_of(rows: TokenisedRows, row: int) -> list[int]:
    return [int(token) for token in rows.tokens(row)[0]]


@settings(max_examples=200)
@given(text=TEXTS, adds_bos=st.booleans(), num_tokens=st.integers(3, 20))
def test_pieces_joined_are_the_tokenizers_whole_output(text: str, adds_bos: bool, num_tokens: int):
    encoded = Encoder(small_tokenizer(adds_bos=adds_bos)).encode(Passage("", text))
    ids = whole(text, adds_bos)
    if len(ids) <= num_tokens:
        return
    pieces = encoded.pieces(num_tokens)
    assert [token for piece in pieces for token in piece.input_ids] == ids
    assert [learn for piece in pieces for learn in piece.is_label] == encoded.is_label
    assert all(piece.learns for piece in pieces)
    assert [piece.input_ids for piece in pieces] == blocks_of(ids, num_tokens)


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_each_piece_is_a_row_of_its_file_and_line(tmp_path: Path, adds_bos: bool, num_proc: int):
    texts = ["The model reads the question. " * 40, "1", "The model reads the question. ", "Sum of numbers 0 1 2 3 4"]
    found = prepared(tmp_path, texts, adds_bos, dataset_num_proc=num_proc)
    blocks = [(at, block) for at, text in enumerate(texts) for block in blocks_of(whole(text, adds_bos), 8)]
    assert [ids_of(found.train, row) for row in range(len(found.train))] == [block for _, block in blocks]
    places = [found.train.place(int(row)) for row in found.train.row_ids]
    assert places == [f"{tmp_path / 'rows.jsonl'}, line {at + 1}" for at, _ in blocks]


def test_rows_and_pieces_are_counted_and_told(tmp_path: Path):
    texts = ["a", "The model reads the question. " * 40, "Sum of numbers 0 1 2 3 4 5 6 7 8 9"]
    found = prepared(tmp_path, texts)
    (source,) = found.report.train
    num_pieces = [len(blocks_of(whole(text), 8)) for text in texts]
    assert num_pieces[0] == 1 and min(num_pieces[1:]) > 1
    assert (source.num_rows, source.num_kept, source.num_split, source.num_pieces) == (3, 3, 2, sum(num_pieces[1:]))
    assert (source.num_truncated, source.num_dropped_long, source.num_dropped_empty) == (0, 0, 0)
    assert source.num_tokens == sum(len(whole(text)) for text in texts)
    assert source.num_label_tokens == source.num_tokens - sum(num_pieces)  # nothing tells a piece's first token
    assert found.report.num_train_rows == sum(num_pieces)
    assert str(source).endswith(f"; 2 rows split into {sum(num_pieces[1:])} pieces")
    cut = prepared(tmp_path, texts, excess_length_strategy="truncate").report.train[0]
    assert (cut.num_truncated, cut.num_split, cut.num_pieces) == (2, 0, 0)
    assert "split" not in str(cut)


def test_pieces_of_a_text_stay_on_one_side(tmp_path: Path):
    texts = [f"{text} reads the question. " * 10 for text in range(12)]
    found = prepared(tmp_path, texts, val_set_size=0.3)
    assert found.validation is not None
    sides = [{rows.place(int(row)) for row in rows.row_ids} for rows in (found.train, found.validation)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 12
    assert len(found.train) + len(found.validation) == sum(len(blocks_of(whole(text), 8)) for text in texts)


def test_a_text_that_validates_is_not_trained_on(tmp_path: Path):
    texts = [f"{text} reads the question. " * 10 for text in range(3)]
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": texts[1]}) + "\n")
    found = prepared(tmp_path, texts, test_datasets=[{"path": str(tmp_path / "test.jsonl"), "type": "text"}])
    assert found.report.num_shared == found.report.num_validation_rows == len(blocks_of(whole(texts[1]), 8))
    assert {found.train.place(int(row)).rpartition(" ")[2] for row in found.train.row_ids} == {"1", "3"}


def test_rows_that_teach_nothing_are_counted_by_their_rows(tmp_path: Path):
    with pytest.raises(DataError, match=r"1 of 2 rows have no token to learn from.*line 2;"):
        prepared(tmp_path, ["The model reads the question. " * 40, ""])
