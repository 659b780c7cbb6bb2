"""Sources and targets in tokens: beside transformers' own way, where rows are cut, and apart from one another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from raylora.data.batches import open_batches
from raylora.data.collate import Batch, filler_batch
from raylora.data.flat import flatten, join, sources_and_targets, unlike
from raylora.data.prepare import prepare
from raylora.data.sources.rows import read_row
from raylora.data.tokens.source_target import START, SourceTarget, TargetEncoder
from raylora.errors import DataError
from raylora.spec.fields.labels import IGNORED
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.tiny_run import tiny_spec
from tests.unit.train.tiny_seq2seq import word_tokenizer

ROW = {"prompt": "the model reads a question", "completion": "an answer"}


def encoded(row: Any, kind: str = "completion", tokenizer: PreTrainedTokenizerFast | None = None) -> SourceTarget:
    found = TargetEncoder(tokenizer or word_tokenizer()).encode(read_row(row, kind, {}))
    assert isinstance(found, SourceTarget)
    return found


@pytest.mark.parametrize("kind", ["completion", "alpaca"])
def test_both_texts_are_those_of_transformers(kind: str):
    row = ROW if kind == "completion" else {"instruction": "reads the question", "output": "an answer 1 2"}
    found, tokenizer = encoded(row, kind), word_tokenizer()
    passage = read_row(row, kind, {})
    theirs = tokenizer(passage.prompt, text_target=passage.text)
    assert found.input_ids == [*theirs["input_ids"], START, *theirs["labels"]]
    assert found.split_at == len(theirs["input_ids"])
    assert [ids for ids, is_label in zip(found.input_ids, found.is_label, strict=True) if is_label] == theirs["labels"]
    assert found.num_labels == len(theirs["labels"])
    assert theirs["labels"][-1] == tokenizer.eos_token_id


def test_a_target_ends_where_the_tokenizer_does_not_end_it():
    tokenizer = small_tokenizer()
    found = encoded(ROW, tokenizer=tokenizer)
    assert found.input_ids[: found.split_at] == tokenizer(ROW["prompt"]).input_ids
    assert found.input_ids[found.split_at + 1 :] == [*tokenizer(ROW["completion"]).input_ids, tokenizer.eos_token_id]


@pytest.mark.parametrize("num_tokens", range(2, 12))
def test_what_is_too_long_is_cut_on_both_sides(num_tokens: int):
    """A source keeps its end, a target its beginning, and each about half unless the other needs less."""
    whole = encoded({"prompt": "the model reads a question and writes", "completion": "an answer 1 2 3"})
    cut = whole.cut(num_tokens)
    source, target = cut.input_ids[: cut.split_at], cut.input_ids[cut.split_at :]
    assert len(source) + len(target) == len(cut.is_label) == num_tokens
    assert abs(len(source) - len(target)) <= 1
    assert source[-1] == word_tokenizer().eos_token_id
    assert source[:-1] == whole.input_ids[: len(source) - 1]
    assert target == whole.input_ids[whole.split_at :][: len(target)]
    assert cut.num_labels == len(target) - 1
    assert cut.learns == (len(target) > 1)


def test_what_cannot_be_learned_is_refused():
    for tokenizer in (word_tokenizer(), small_tokenizer()):  # one ends every source with a token, even that of nothing
        with pytest.raises(DataError, match="the prompt has no tokens of its own; remove the row"):
            encoded({"prompt": "", "completion": "an answer"}, tokenizer=tokenizer)
    endless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(word_tokenizer().backend_tokenizer.to_str()))
    with pytest.raises(DataError, match="has no eos token, so the model could not learn to stop"):
        encoded(ROW, tokenizer=endless)


def test_a_row_without_a_source_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"rows.jsonl, line 2: the prompt has no tokens of its own"):
        batches_of(tmp_path, [ROW, {"prompt": " ", "completion": "an answer"}])


def batches_of(folder: Path, rows: list[dict[str, str]], **fields: Any) -> list[Batch]:
    word_tokenizer().save_pretrained(folder / "base")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"task_type": "seq_2_seq_lm", "datasets": [{"path": str(file), "type": "completion"}], **fields}
    spec = tiny_spec(folder / "base", file, **{"micro_batch_size": len(rows), "sequence_len": 64, **asked})
    return open_batches(spec, word_tokenizer(), prepare(spec, folder / "base", folder / "cache").train).step(0, 0, 1)


def test_each_side_is_on_a_line_of_its_own(tmp_path: Path):
    rows = [ROW, {"prompt": "reads", "completion": "1 2 3 4 5 6 7 8 9"}, {"prompt": "a", "completion": "an"}]
    (batch,) = batches_of(tmp_path, rows)
    sources, targets = sources_and_targets(flatten(batch))
    assert (sources.labels_1N == IGNORED).all()
    tokenizer = word_tokenizer()
    theirs = [
        tokenizer(rows[row]["prompt"], text_target=rows[row]["completion"]) for row, _ in batch.rows[::2] if row >= 0
    ]
    apart = [ids.tolist() for ids in sources.input_ids_1N[0].split(sources.row_lengths)]
    assert apart == [row["input_ids"] for row in theirs]
    written = zip(targets.input_ids_1N[0].split(targets.row_lengths), theirs, strict=True)
    assert all(ids.tolist() == [START, *row["labels"]] for ids, row in written)
    learned = zip(targets.labels_1N[0].split(targets.row_lengths), theirs, strict=True)
    assert all(labels.tolist() == [*row["labels"], IGNORED] for labels, row in learned), "beside the token before it"


def test_lines_that_are_equally_long_are_told_apart_by_a_token_of_nobody(tmp_path: Path):
    """A source of three words with its end, a target of two between its start and end."""
    (batch,) = batches_of(tmp_path, [{"prompt": "the model reads", "completion": "an answer"}])
    sources, targets = sources_and_targets(flatten(batch))
    assert (sources.row_lengths, targets.row_lengths) == ((4,), (4,))
    assert unlike(sources, targets).row_lengths == (4, 1)
    assert unlike(sources, join([targets, targets])) is sources


def test_a_batch_of_nothing_is_both_sides():
    batch = filler_batch(0)
    sources, targets = sources_and_targets(flatten(batch))
    assert torch.equal(sources.input_ids_1N, batch.input_ids_BT)
    assert torch.equal(targets.labels_1N, torch.full_like(batch.labels_BT, IGNORED))
