"""Weights of messages: read, refused, kept beside tokens only where they are fractions, and laid beside labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylora.data.collate import collate
from raylora.data.prepare import Prepared, prepare
from raylora.data.sources.conversation import read_conversation
from raylora.data.sources.rows import read_row
from raylora.data.tokens.encode import Encoder
from raylora.errors import DataError
from raylora.spec.fields.labels import IGNORED
from tests.unit.data.made_rows import run_spec
from tests.unit.data.small_tokenizer import CHATML, saved, small_tokenizer


def chat(*answers: tuple[str, Any]) -> list[dict[str, Any]]:
    """Questions with answers and their weights."""
    turns = [[{"role": "user", "content": "q"}, answer_of(text, weight)] for text, weight in answers]
    return [message for turn in turns for message in turn]


def answer_of(text: str, weight: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "weight": weight}


def prepared(folder: Path, rows: list[list[dict[str, Any]]], **fields: Any) -> Prepared:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    base = saved(small_tokenizer(), folder / "base")
    return prepare(run_spec(datasets=[{"path": str(folder / "rows.jsonl")}], **fields), base, folder / "cache")


def learned(found: Prepared, row: int) -> str:
    ids, is_label = found.train.tokens(row)
    return small_tokenizer().decode(ids[is_label])


def test_a_weight_stands_beside_messages_that_templates_see_as_they_were():
    whole = read_conversation({"messages": chat(("a", 0.5), ("b", None)), "tools": None})
    assert whole.messages == read_conversation({"messages": chat(("a", None), ("b", None)), "tools": None}).messages
    assert whole.turn_weights == (0.5, 1.0)
    assert all("weight" not in message for message in whole.messages)


@pytest.mark.parametrize("weights", [(None, None), (1, 1.0), (1, None)])
def test_full_weights_are_none(weights: tuple[Any, Any]):
    given = {"role": "system", "content": "s", "weight": None}
    messages = [given, *chat(*zip("ab", weights, strict=True))]
    assert read_conversation({"messages": messages, "tools": None}).weights == ()


def test_weights_of_0_and_1_are_masks_and_keep_no_numbers(tmp_path: Path):
    found = prepared(tmp_path, [chat(("one", 0), ("two", 1), ("three", 0)), chat(("one", 1), ("two", None))])
    assert [learned(found, row) for row in range(2)] == ["two<|im_end|>", "one<|im_end|>two<|im_end|>"]
    assert found.train.label_weights(0) is found.train.label_weights(1) is None
    (table,) = found.train.tables
    assert len(table.column("weights").combine_chunks().flatten()) == 0
    assert found.report.train[0].num_label_tokens == sum(int(found.train.tokens(row)[1].sum()) for row in range(2))


def test_fractions_stand_beside_the_labels_of_their_tokens_also_in_a_bin(tmp_path: Path):
    rows = [chat(("one", 0.25), ("two", 1)), chat(("one", None)), chat(("one", 0), ("three two", 0.5))]
    found = prepared(tmp_path, rows)
    batch = collate([[0, 1], [2]], found.train, pad_id=0)
    assert batch.weights_BT is not None and batch.label_weights is not None
    assert len(batch.label_weights) == batch.num_label_tokens
    told = {}
    for labels, weights in zip(batch.labels_BT, batch.weights_BT, strict=True):
        for label, weight in zip(labels.tolist(), weights.tolist(), strict=True):
            if label != IGNORED:
                told.setdefault(weight, []).append(label)
    end, decode = "<|im_end|>", small_tokenizer().decode
    assert {weight: decode(ids) for weight, ids in told.items()} == {
        0.25: f"one{end}",
        1.0: f"two{end}one{end}",
        0.5: f"three two{end}",
    }
    assert collate([[1]], found.train, pad_id=0).weights_BT is None


def test_a_row_that_is_cut_keeps_the_weights_of_what_is_left(tmp_path: Path):
    found = prepared(tmp_path, [chat(("one", 0.25), ("two " * 60, 0.5))], sequence_len=64)
    whole = Encoder(small_tokenizer(CHATML)).encode(
        read_conversation({"messages": chat(("one", 0.25), ("two " * 60, 0.5)), "tools": None})
    )
    (table,) = found.train.tables
    assert table.column("weights")[0].as_py() == list(whole.weights[:64])
    assert found.report.train[0].num_truncated == 1


@pytest.mark.parametrize(
    ("weight", "shown"),
    [
        (2, "int '2'"),
        (-0.5, "float '-0.5'"),
        (True, "bool 'True'"),
        ("1", "str '1'"),
        (float("nan"), "float 'nan'"),
        (float("inf"), "float 'inf'"),
        (1e-9, "float '1e-09'"),
        (10**400, "int '1000"),
        ([1], "list"),
    ],
)
def test_what_is_no_weight_is_one_error_with_file_and_row(tmp_path: Path, weight: Any, shown: str):
    with pytest.raises(DataError) as raised:
        prepared(tmp_path, [chat(("a", 1)), chat(("a", 1), ("b", weight))])
    assert str(raised.value).startswith(f"{tmp_path / 'rows.jsonl'}, line 2: messages[3].weight: got {shown}")
    assert "allowed: 0 where a message is read and not learned, 1 where it counts in full" in str(raised.value)


@pytest.mark.parametrize("word", ["train", "training", "loss"])
@pytest.mark.parametrize("value", [False, True])
def test_other_tools_words_for_it_are_named(word: str, value: bool):
    message = {"role": "assistant", "content": "a", word: value}
    with pytest.raises(DataError, match=rf"messages\[0\]\.{word}: got bool '{value}'.*weight here.*Rename it"):
        read_conversation({"messages": [message], "tools": None})
    read_conversation({"messages": [{**message, word: None}], "tools": None})  # Parquet's empty cell


def test_only_the_assistants_messages_are_learned(tmp_path: Path):
    asked = {"role": "user", "content": "q"}
    found = prepared(tmp_path, [[{**asked, "weight": 0}, answer_of("a", 1)]])
    assert learned(found, 0) == "a<|im_end|>"
    with pytest.raises(DataError, match=r"messages\[0\]\.weight: got 1 for a message of 'user'; only the assistant's"):
        read_conversation({"messages": [{**asked, "weight": 1}], "tools": None})


@pytest.mark.parametrize(
    "row", [chat(("a", 0), ("b", 1)), [{"role": "user", "content": "q", "weight": 0}, *chat(("a", 1))]]
)
def test_every_token_and_weights_exclude_each_other(tmp_path: Path, row: list[dict[str, Any]]):
    with pytest.raises(DataError, match=r"line 1: messages have weights, and train_on_inputs learns every token alike"):
        prepared(tmp_path, [row], train_on_inputs=True)
    assert len(prepared(tmp_path, [chat(("a", 1))], train_on_inputs=True).train) == 1


def test_a_row_of_which_nothing_counts_is_told(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"1 of 2 rows have no token to learn from: .* that counts in them: \S+, line 2;"
    ):
        prepared(tmp_path, [chat(("a", 0), ("b", 1)), chat(("a", 0), ("b", 0))])


def test_marks_that_are_not_one_a_turn_are_told(tmp_path: Path):
    once = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] }}{% if loop.last %}{% generation %}"
        "{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    )
    assert learned(prepared(tmp_path, [chat(("a", 1), ("b", 1))], chat_template=once), 0) == "b"
    with pytest.raises(DataError, match="of 2 turns of the assistant the chat template marks 1; set a chat_template"):
        prepared(tmp_path, [chat(("a", 0.5), ("b", 1))], chat_template=once)


def test_answers_that_are_judged_have_none():
    asked = {"role": "user", "content": "q"}
    better, worse = [answer_of("a", 1)], [answer_of("b", 0)]
    with pytest.raises(DataError, match="rejected: a message has a weight other than 1, and answers that are compared"):
        read_row({"prompt": [asked], "chosen": better, "rejected": worse}, "preference", {})
    with pytest.raises(DataError, match="completion: a message has a weight other than 1"):
        read_row({"prompt": [asked], "completion": worse, "label": True}, "unpaired_preference", {})
    given = [{**asked, "weight": 0}, answer_of("a", 0), asked]  # which nobody would learn
    assert read_row({"prompt": given, "chosen": better, "rejected": [answer_of("b", 1)]}, "preference", {})
