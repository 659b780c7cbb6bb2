"""A row of a file becomes a conversation, a passage, a pair of either, a rated one, or what has classes, by its type.

Enters: one row as a dict, the dataset's type and its column names. Leaves: a Conversation (rendered by the chat
template) or another of `examples`. Called by tokenise. To add a type, add its function and its entry in TYPES.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from raylora.data.sources.answers import read_preference, read_unpaired_preference
from raylora.data.sources.cells import Row, text_cell
from raylora.data.sources.classes import read_classification, read_file, read_tags
from raylora.data.sources.conversation import read_conversation
from raylora.data.sources.examples import Example, Passage
from raylora.errors import DataError


@dataclass(frozen=True)
class RowType:
    """The columns a type reads and how they become an example."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Row], Example]


def read_row(row: Any, kind: str, columns: Mapping[str, str]) -> Example:
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
    return Passage(text_cell(row, "prompt"), text_cell(row, "completion"))


def _alpaca(row: Row) -> Passage:
    # The wording is Stanford Alpaca's, which models and other trainers share.
    given = text_cell(row, "input") if row["input"] else ""
    about = "an instruction that describes a task"
    if given:
        about += ", paired with an input that provides further context"
    prompt = f"Below is {about}. Write a response that appropriately completes the request.\n\n"
    prompt += f"### Instruction:\n{text_cell(row, 'instruction')}\n\n"
    prompt += f"### Input:\n{given}\n\n" if given else ""
    return Passage(f"{prompt}### Response:\n", text_cell(row, "output"))


def _plain_text(row: Row) -> Passage:
    return Passage("", text_cell(row, "text"))


TYPES: dict[str, RowType] = {
    "chat": RowType(("messages",), ("tools",), read_conversation),
    "completion": RowType(("prompt", "completion"), (), _completion),
    "alpaca": RowType(("instruction", "output"), ("input",), _alpaca),
    "text": RowType(("text",), (), _plain_text),
    "preference": RowType(("chosen", "rejected"), ("prompt", "tools"), read_preference),
    "unpaired_preference": RowType(("prompt", "completion", "label"), ("tools",), read_unpaired_preference),
    "classification": RowType(("text", "label"), (), read_classification),
    "tags": RowType(("tokens", "tags"), (), read_tags),
    "image": RowType(("image", "label"), (), partial(read_file, "image")),
    "audio": RowType(("audio", "label"), (), partial(read_file, "audio")),
}
"""Each row type of the specification."""
