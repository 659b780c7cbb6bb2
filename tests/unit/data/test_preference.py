"""Pairs of answers: rows of every shape, and the two texts that they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylora.data.collate import collate
from raylora.data.prepare import prepare
from raylora.data.sources.conversation import Conversation
from raylora.data.sources.examples import Pair, Passage
from raylora.data.sources.rows import read_row
from raylora.data.tokens.encode import Encoded, Encoder
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.errors import DataError
from raylora.spec.fields.labels import IGNORED
from tests.unit.data.made_rows import run_spec
from tests.unit.data.small_tokenizer import MARKED, saved, small_tokenizer
from tests.unit.train.tiny_run import write_pairs

ASKED = {"role": "user", "content": "q"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))
SILENT = {"role": "assistant", "content": ""}
EARLIER = [ASKED, {"role": "assistant", "content": "earlier"}, ASKED]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, Pair(Passage("p", "a"), Passage("p", "b"))),
        ({"chosen": "a", "rejected": "b"}, Pair(Passage("", "a"), Passage("", "b"))),
        (
            {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
            Pair(Conversation([ASKED, GOOD], None, 1), Conversation([ASKED, BAD], None, 1)),
        ),
        (
            {"prompt": "q", "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD])},
            Pair(Conversation([ASKED, GOOD], None, 1), Conversation([ASKED, BAD], None, 1)),
        ),
        (
            {"chosen": [*EARLIER, GOOD], "rejected": [*EARLIER, BAD]},
            Pair(Conversation([*EARLIER, GOOD], None, 3), Conversation([*EARLIER, BAD], None, 3)),
        ),
    ],
    ids=["texts", "texts alone", "messages", "messages as JSON", "messages that begin alike"],
)
def test_a_row_becomes_a_pair(row: dict[str, Any], expected: Pair):
    assert read_row(row, "preference", {}) == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "chosen": "a"}, "no column 'rejected'"),
        ({"prompt": "p", "rejected": "b"}, "no column 'chosen'"),
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "column 'chosen' holds no answer"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, "column 'rejected' holds no answer"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "column 'rejected' holds no answer"),
        ({"prompt": "p", "chosen": " ", "rejected": "b"}, "column 'chosen' holds no answer"),
        ({"prompt": [ASKED], "chosen": [GOOD], "rejected": [SILENT]}, "column 'rejected' holds no answer"),
        ({"chosen": [*EARLIER, SILENT], "rejected": [*EARLIER, BAD]}, "column 'chosen' holds no answer"),
        ({"chosen": [*EARLIER, GOOD], "rejected": EARLIER}, "column 'rejected' holds no answer"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "two different answers"),
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD]}, "two different answers"),
        ({"prompt": "p", "chosen": [GOOD], "rejected": "b"}, "rejected: a list of messages"),
        (
            {"prompt": [ASKED], "chosen": [{"content": "no role"}], "rejected": [BAD]},
            r"chosen\[0\]: a message has a role",
        ),
        ({"prompt": 3, "chosen": [GOOD], "rejected": [BAD]}, "prompt: a list of messages"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "column 'prompt' holds text"),
    ],
)
def test_what_is_no_pair_is_said(row: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said):
        read_row(row, "preference", {})


@pytest.mark.parametrize("template", [None, MARKED])
def test_only_answers_are_learned(template: str | None):
    tokenizer = small_tokenizer(template) if template else small_tokenizer()
    pair = Pair(Conversation([*EARLIER, GOOD], None, 3), Conversation([*EARLIER, BAD], None, 3))
    encoder = Encoder(tokenizer)
    both, chosen, rejected = (encoder.encode(each) for each in (pair, pair.chosen, pair.rejected))
    assert both.input_ids == chosen.input_ids + rejected.input_ids
    assert both.split_at == len(chosen.input_ids)
    learned = tokenizer.decode([i for i, learn in zip(both.input_ids, both.is_label, strict=True) if learn])
    assert learned == "good<|im_end|>bad<|im_end|>"


@pytest.mark.parametrize("template", [None, MARKED])
def test_with_inputs_the_chosen_text_is_learned_whole_and_answers_are_told_apart(template: str | None):
    tokenizer = small_tokenizer(template) if template else small_tokenizer()
    pair = Pair(Conversation([ASKED, GOOD], None, 1), Conversation([ASKED, BAD], None, 1))
    of_answers, of_all = Encoder(tokenizer).encode(pair), Encoder(tokenizer, train_on_inputs=True).encode(pair)
    assert (of_all.input_ids, of_all.split_at) == (of_answers.input_ids, of_answers.split_at)
    assert all(of_all.is_label[: of_all.split_at])
    assert of_all.is_label[of_all.split_at :] == of_answers.is_label[of_all.split_at :]
    assert [weight == 1 for weight in of_all.weights] == of_answers.is_label
    assert of_answers.weights == ()


def test_a_prompt_alone_is_no_pair_to_learn_from():
    pair = Encoded(list(range(6)), [True] * 3 + [False, True, True], 3, weights=(0.0, 0.0, 1.0, 0.0, 1.0, 1.0))
    assert pair.learns and pair.num_labels == 4
    cut = pair.cut(4)
    assert cut == Encoded([0, 1, 3, 4], [True, True, False, True], 2, weights=(0.0, 0.0, 0.0, 1.0))
    assert not cut.learns, "the chosen answer was cut off"


def test_batches_tell_labels_of_answers_from_those_of_prompts(tmp_path: Path):
    of_answers, of_all = (
        collate([(0, 3), (5,)], prepared(tmp_path / name, rl="orpo", train_on_inputs=on), 0)
        for name, on in (("answers", False), ("all", True))
    )
    assert of_answers.weights_BT is None and of_all.weights_BT is not None
    is_answer_BT = (of_all.labels_BT != IGNORED) & (of_all.weights_BT == 1)
    assert is_answer_BT.tolist() == (of_answers.labels_BT != IGNORED).tolist()
    assert of_all.num_label_tokens > of_answers.num_label_tokens
    assert of_all.label_counts[1::2] == of_answers.label_counts[1::2], "of rejected texts the answers alone"


def test_a_cut_takes_from_the_longer_text_first():
    pair = Encoded(list(range(10)), [False] + [True] * 9, 4)
    assert pair.num_labels == 3 + 5
    assert pair.cut(8) == Encoded([0, 1, 2, 3, 4, 5, 6, 7], [False] + [True] * 7, 4)
    assert pair.cut(6) == Encoded([0, 1, 2, 4, 5, 6], [False] + [True] * 5, 3)
    short_second = Encoded(list(range(10)), [True] * 10, 8)
    assert short_second.cut(7) == Encoded([0, 1, 2, 3, 4, 8, 9], [True] * 7, 5)


def prepared(tmp_path: Path, **fields: object) -> TokenisedRows:
    tmp_path.mkdir(exist_ok=True)
    write_pairs(tmp_path / "pairs.jsonl", 12)
    source = {"path": str(tmp_path / "pairs.jsonl"), "type": "preference"}
    spec = run_spec(**{"datasets": [source], "rl": "dpo", "sequence_len": 128, **fields})
    return prepare(spec, saved(small_tokenizer(), tmp_path / "base"), tmp_path / "cache").train


def test_both_texts_of_a_row_stand_side_by_side_and_apart(tmp_path: Path):
    rows = prepared(tmp_path)
    batch = collate([(0, 3), (5,)], rows, 0)
    assert batch.row_ids == ((0, 0, 3, 3), (5, 5))
    texts = [text for row in (0, 3, 5) for text in rows.texts(row)]
    assert batch.label_counts == tuple(int(is_label_T[1:].sum()) for _, is_label_T in texts)
    assert [num_tokens for row, num_tokens in batch.rows if row >= 0] == [len(ids_T) for ids_T, _ in texts]
    at = 0
    for line, of_line in enumerate((texts[:4], texts[4:])):
        at = 0
        for ids_T, is_label_T in of_line:
            span = slice(at, at + len(ids_T))
            assert batch.input_ids_BT[line, span].tolist() == ids_T.tolist()
            assert batch.position_ids_BT[line, span].tolist() == list(range(len(ids_T)))
            wanted = np.where(is_label_T[1:], ids_T[1:], IGNORED).tolist()
            assert batch.labels_BT[line, span].tolist() == [*wanted, IGNORED]
            at += len(ids_T)


def test_a_pair_that_is_too_long_keeps_both_texts(tmp_path: Path):
    longest = max(prepared(tmp_path).lengths)
    rows = prepared(tmp_path, sequence_len=int(longest) - 6)
    assert max(rows.lengths) == longest - 6
    assert all(len(rows.texts(row)) == 2 for row in range(len(rows)))
    assert all(is_label_T[1:].any() for row in range(len(rows)) for _, is_label_T in rows.texts(row))
