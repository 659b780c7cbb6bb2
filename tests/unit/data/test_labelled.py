"""Classes at their tokens: beside transformers' own example, where rows are cut, and what is no class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from raylora.data.batches import open_batches
from raylora.data.prepare import prepare
from raylora.data.sources.rows import read_row
from raylora.data.tokens.encode import Encoded
from raylora.data.tokens.labelled import LabelEncoder
from raylora.errors import DataError
from raylora.spec.fields.labels import IGNORED
from tests.unit.data.small_tokenizer import saved, small_tokenizer
from tests.unit.data.wordpiece import wordpiece_tokenizer
from tests.unit.train.tiny_run import tiny_spec

LABELS = ["negative", "positive", "1"]
TEXT = "The model reads the question and writes unseen answers."


def encoded(row: Any, kind: str, tokenizer: PreTrainedTokenizerFast | None = None) -> Encoded:
    return LabelEncoder(tokenizer or small_tokenizer(), LABELS).encode(read_row(row, kind, {}))


def labels_of(found: Encoded) -> list[int]:
    classes = iter(found.classes)
    return [next(classes) if is_label else IGNORED for is_label in found.is_label]


@pytest.mark.parametrize("tokenizer", [small_tokenizer(), small_tokenizer(adds_bos=True), wordpiece_tokenizer()])
def test_a_text_has_the_tokenizers_own_tokens_and_its_class_at_the_last(tokenizer: PreTrainedTokenizerFast):
    found = encoded({"text": TEXT, "label": "positive"}, "classification", tokenizer)
    assert found.input_ids == tokenizer(TEXT).input_ids
    assert labels_of(found) == [IGNORED] * (len(found.input_ids) - 1) + [1]


def test_the_last_token_is_the_one_that_transformers_takes():
    """The last that is not padding, also where a text ends with what pads."""
    tokenizer = small_tokenizer()
    found = encoded({"text": f"{TEXT}<|pad|><|pad|>", "label": 0}, "classification", tokenizer)
    ids = np.array(found.input_ids)
    wanted = int(((ids != tokenizer.pad_token_id) * np.arange(len(ids))).argmax())
    assert wanted == len(ids) - 3
    assert [at for at, label in enumerate(labels_of(found)) if label != IGNORED] == [wanted]


@pytest.mark.parametrize(
    ("label", "number"), [("negative", 0), ("positive", 1), (0, 0), ("0", 0), ("1", 2), (1, 2), (2, 2)]
)
def test_a_class_is_a_name_or_else_a_number(label: object, number: int):
    """A number that is itself a name is that name: classes 1 to 5 are not counted from 0."""
    assert encoded({"text": TEXT, "label": label}, "classification").classes == (number,)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("positiv", "label: got 'positiv'; allowed by labels: negative, positive, 1, or 0 to 2; nearest: positive"),
        (3, "label: got 3; allowed by labels"),
        (-1, "label: got -1; allowed"),
        (True, "label: a class by its name or its number, got bool"),
        (None, "label: a class by its name or its number, got NoneType"),
        (0.5, "label: a class by its name or its number, got float"),
    ],
)
def test_what_is_no_class_is_refused(label: object, said: str):
    with pytest.raises(DataError, match=said):
        encoded({"text": TEXT, "label": label}, "classification")


WORDS = ["The", "model", "reads", "unseen", "answers", ",", "and", "1", "question"]
TAGS = [0, 1, 2, 0, 1, 2, 0, 1, 2]


def as_in_transformers_example(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """`tokenize_and_align_labels` of examples/pytorch/token-classification/run_ner.py, without label_all_tokens."""
    tokens = tokenizer(WORDS, is_split_into_words=True)
    labels, previous = [], None
    for word in tokens.word_ids():
        labels.append(IGNORED if word is None or word == previous else [0, 2, 2, 0, 2, 2, 0, 2, 2][word])
        previous = word
    return tokens["input_ids"], labels


def test_the_first_token_of_a_word_has_its_class_as_in_transformers_example():
    tokenizer = wordpiece_tokenizer()
    found = encoded({"tokens": WORDS, "tags": TAGS}, "tags", tokenizer)
    ids, labels = as_in_transformers_example(tokenizer)
    assert found.input_ids == ids
    assert labels_of(found) == labels
    assert IGNORED in labels_of(found)[1:-1], "no word has two tokens"


def test_words_of_a_byte_level_tokenizer_stand_as_in_a_text():
    tokenizer = small_tokenizer(adds_bos=True)
    found = encoded({"tokens": WORDS, "tags": TAGS}, "tags", tokenizer)
    assert found.input_ids == tokenizer(" ".join(WORDS)).input_ids
    assert len(found.classes) == len(WORDS)
    first = [
        tokenizer.decode(i) for i, label in zip(found.input_ids, labels_of(found), strict=True) if label != IGNORED
    ]
    assert all(word.startswith(token.strip()) for word, token in zip(WORDS, first, strict=True))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "tags": [0]}, "tokens are 2 and tags 1"),
        ({"tokens": ["a", " "], "tags": [0, 1]}, r"tokens\[1\]: a word, got str ' '"),
        ({"tokens": ["a", 3], "tags": [0, 1]}, r"tokens\[1\]: a word, got int"),
        ({"tokens": [], "tags": []}, "tokens: a list with something in it"),
        ({"tokens": "a b", "tags": [0]}, "tokens: a list with something in it, got str"),
        ({"tokens": ["a"], "tags": ["neutral"]}, r"tags\[0\]: got 'neutral'; allowed"),
        ({"tokens": ["a"], "tags": [None]}, r"tags\[0\]: a class by its name"),
    ],
)
def test_rows_of_words_that_are_none_are_refused(row: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said):
        encoded(row, "tags")


def test_a_csv_cell_holds_its_list_as_json():
    row = {"tokens": json.dumps(WORDS), "tags": json.dumps(TAGS)}
    assert encoded(row, "tags") == encoded({"tokens": WORDS, "tags": TAGS}, "tags")


def test_a_text_that_is_cut_keeps_its_class_and_the_last_token():
    tokenizer = wordpiece_tokenizer()
    cut = encoded({"text": TEXT, "label": 1}, "classification", tokenizer).cut(6)
    assert cut.input_ids == tokenizer(TEXT, truncation=True, max_length=6).input_ids
    assert labels_of(cut) == [IGNORED] * 5 + [2]


def test_words_that_are_cut_keep_the_classes_of_those_that_are_left():
    tokenizer = wordpiece_tokenizer()
    whole = encoded({"tokens": WORDS, "tags": TAGS}, "tags", tokenizer)
    cut = whole.cut(7)
    assert cut.input_ids == tokenizer(" ".join(WORDS), truncation=True, max_length=7).input_ids
    assert labels_of(cut) == [*labels_of(whole)[:6], IGNORED]


@pytest.mark.parametrize("tokenizer", [small_tokenizer(), wordpiece_tokenizer()], ids=["decoder", "encoder"])
def test_both_texts_of_a_pair_are_rewarded_at_their_ends(tokenizer: PreTrainedTokenizerFast):
    row = {"prompt": "Sum: ", "chosen": "3 numbers", "rejected": "I do not know, the answer is long"}
    found = LabelEncoder(tokenizer, ()).encode(read_row(row, "preference", {}))
    labelled = [at for at, label in enumerate(labels_of(found)) if label != IGNORED]
    assert labelled == [found.split_at - 1, len(found.input_ids) - 1]
    assert found.classes == (0, 0)
    cut = found.cut(9)
    assert [at for at, label in enumerate(labels_of(cut)) if label != IGNORED] == [cut.split_at - 1, 8]


def test_a_batch_has_classes_at_their_tokens_and_a_wrong_one_is_told_with_its_line(tmp_path: Path):
    base = saved(small_tokenizer(), tmp_path / "base")
    rows = [{"text": " ".join(["model"] * n), "label": n % 2} for n in range(1, 7)]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"task_type": "seq_cls", "labels": ["even", "odd"], "micro_batch_size": 6}
    spec = tiny_spec(base, file, datasets=[{"path": str(file), "type": "classification"}], **fields)
    prepared = prepare(spec, base, tmp_path / "cache")
    (batch,) = open_batches(spec, small_tokenizer(), prepared.train).step(0, 0, 1)
    assert batch.num_label_tokens == 6
    assert batch.label_counts == (1,) * 6
    for ids_T, labels_T, segments_T in zip(batch.input_ids_BT, batch.labels_BT, batch.segment_ids_BT, strict=True):
        (at,) = (labels_T != IGNORED).nonzero().flatten().tolist()
        assert at == int((segments_T > 0).sum()) - 1
        num_words = len(small_tokenizer().decode(ids_T[segments_T > 0]).split())
        assert int(labels_T[at]) == num_words % 2
    file.write_text(file.read_text() + json.dumps({"text": "model", "label": "neither"}) + "\n")
    with pytest.raises(DataError, match=r"texts\.jsonl, line 7: label: got 'neither'; allowed by labels: even, odd"):
        prepare(spec, base, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "tokens").glob("*tmp*"))
