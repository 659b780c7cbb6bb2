"""Rows of each type, with the columns their files have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raylora.data.sources.conversation import Conversation
from raylora.data.sources.examples import Passage
from raylora.data.sources.rows import check_columns, read_row
from raylora.errors import DataError

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
ALPACA = "Write a response that appropriately completes the request.\n\n### Instruction:\nadd\n\n"


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        ("chat", {"messages": [QUESTION, ANSWER]}, Conversation([QUESTION, ANSWER])),
        (
            "chat",
            {"messages": json.dumps([QUESTION]), "tools": '[{"x": null}]'},
            Conversation([QUESTION], [{"x": None}]),
        ),
        ("chat", {"messages": [QUESTION], "tools": []}, Conversation([QUESTION])),
        ("completion", {"prompt": "p", "completion": "c", "more": 1}, Passage("p", "c")),
        ("text", {"text": "t"}, Passage("", "t")),
        (
            "alpaca",
            {"instruction": "add", "input": "", "output": "3"},
            Passage(f"Below is an instruction that describes a task. {ALPACA}### Response:\n", "3"),
        ),
        (
            "alpaca",
            {"instruction": "add", "input": "1 2", "output": "3"},
            Passage(
                "Below is an instruction that describes a task, paired with an input that provides further context. "
                f"{ALPACA}### Input:\n1 2\n\n### Response:\n",
                "3",
            ),
        ),
    ],
)
def test_a_row_becomes_an_example(kind: str, row: dict[str, Any], expected: object):
    assert read_row(row, kind, {}) == expected


def test_columns_have_the_names_that_the_file_gives_them():
    row = {"frage": "p", "antwort": "c", "prompt": "another"}
    assert read_row(row, "completion", {"prompt": "frage", "completion": "antwort"}) == Passage("p", "c")


def test_messages_are_made_fit_for_templates():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": null}'}}
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    got = read_row(
        {
            "messages": [
                {"role": "user", "content": parts, "name": None},
                {"role": "assistant", "content": None, "tool_calls": [call, {"name": "g", "arguments": {"y": 1}}]},
            ]
        },
        "chat",
        {},
    )
    called = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": None}}}
    assert got == Conversation(
        [
            {"role": "user", "content": "one two"},
            {"role": "assistant", "content": "", "tool_calls": [called, {"name": "g", "arguments": {"y": 1}}]},
        ]
    )


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("chat", {"mesages": []}, r"no column 'messages'.*the row has: mesages; nearest: mesages.*columns: \{messages"),
        ("text", {}, "no column 'text'.*the row has: none"),
        ("text", [1], "a row is an object with named columns, got list"),
        ("text", {"text": None}, "column 'text' holds text, got NoneType"),
        ("alpaca", {"instruction": "i", "output": "o", "input": 3}, "column 'input' holds text, got int"),
        ("chat", {"messages": []}, "messages: a list of messages"),
        ("chat", {"messages": "hello"}, "messages: a list of messages with role and content, got str 'hello'"),
        ("chat", {"messages": [{"from": "human", "value": "q"}]}, r"messages\[0\]: a message has a role and content"),
        (
            "chat",
            {"messages": [QUESTION, {"role": "assistant", "content": 3}]},
            r"messages\[1\].content: text, got int",
        ),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "only text parts"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "a function with a name"),
        ("chat", {"messages": [QUESTION], "tools": "search"}, "tools: a list of JSON schemas"),
    ],
)
def test_a_wrong_row_says_what_is_wrong(kind: str, row: Any, said: str):
    with pytest.raises(DataError, match=said):
        read_row(row, kind, {})


def test_a_mapping_of_no_column_is_refused():
    check_columns("chat", {"messages": "conversation"})
    with pytest.raises(DataError, match="reads no 'mesages'; allowed: messages, tools; nearest: messages"):
        check_columns("chat", {"mesages": "conversation"})
