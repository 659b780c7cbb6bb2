"""A row of a file becomes a conversation or a passage, whatever columns its type has.

Enters: one row as a dict, the dataset's type and its column names. Leaves: a Conversation (rendered by the chat
template) or a Passage (prompt and text). Called by tokenise. To add a type, add its function and its entry in TYPES.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raylora.data.conversation import Conversation, read_conversation, short
from raylora.errors import DataError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Passage:
    """Text to learn, after a prompt (possibly empty) that is read and not learned."""

    prompt: str
    text: str


@dataclass(frozen=True)
class RowType:
    """The columns a type reads and how they become an example."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Row], Conversation | Passage]


def read_row(row: Any, kind: str, columns: Mapping[str, str]) -> Conversation | Passage:
    """Turn one row into what the encoder takes.

    Args:
        row: The row as read from its file.
        kind: One of ``TYPES``.
        columns: The file's own names by ours, as in ``{"messages": "conversation"}``.

    Raises:
        DataError: A column is missing or holds something else; the message does not say where the row is.
    """
    if not isinstance(row, dict):
        raise DataError(f"a row is an object with named columns, got {type(row).__name__}")
    shape = TYPES[kind]
    for ours in shape.required:
        theirs = columns.get(ours, ours)
        if theirs not in row:
            known = ", ".join(map(str, row)) or "none"
            raise DataError(
                f"no column {theirs!r} (type {kind} reads {', '.join(shape.required)}); the row has: {known}"
                f"{_nearest(theirs, row)}; map it with columns: {{{ours}: YOUR_COLUMN}} or set another type"
            )
    return shape.read({ours: row.get(columns.get(ours, ours)) for ours in (*shape.required, *shape.optional)})


def check_columns(kind: str, columns: Mapping[str, str]) -> None:
    """Refuse a column mapping that maps a column the type does not read.

    Args:
        kind: One of ``TYPES``.
        columns: The file's own names by ours.

    Raises:
        DataError: Names the key, the allowed keys and the nearest one.
    """
    allowed = (*TYPES[kind].required, *TYPES[kind].optional)
    for ours in columns:
        if ours not in allowed:
            raise DataError(
                f"columns: type {kind} reads no {ours!r}; allowed: {', '.join(allowed)}{_nearest(ours, allowed)}"
            )


def _nearest(name: str, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(name, [str(word) for word in known], n=1)
    return f"; nearest: {close[0]}" if close else ""


def _completion(row: Row) -> Passage:
    return Passage(_text(row, "prompt"), _text(row, "completion"))


def _alpaca(row: Row) -> Passage:
    # The wording is Stanford Alpaca's, which models and other trainers share.
    given = _text(row, "input") if row["input"] else ""
    about = "an instruction that describes a task"
    if given:
        about += ", paired with an input that provides further context"
    prompt = f"Below is {about}. Write a response that appropriately completes the request.\n\n"
    prompt += f"### Instruction:\n{_text(row, 'instruction')}\n\n"
    prompt += f"### Input:\n{given}\n\n" if given else ""
    return Passage(f"{prompt}### Response:\n", _text(row, "output"))


def _plain_text(row: Row) -> Passage:
    return Passage("", _text(row, "text"))


def _text(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"column {column!r} holds text, got {short(value)}")
    return value


TYPES: dict[str, RowType] = {
    "chat": RowType(("messages",), ("tools",), read_conversation),
    "completion": RowType(("prompt", "completion"), (), _completion),
    "alpaca": RowType(("instruction", "output"), ("input",), _alpaca),
    "text": RowType(("text",), (), _plain_text),
}
"""Each row type of the specification."""
