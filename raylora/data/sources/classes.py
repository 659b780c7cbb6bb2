"""Rows of what has classes: a text, words, an image or a recording. Called by rows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from raylora.data.sources.cells import Row, list_cell, text_cell
from raylora.data.sources.conversation import short
from raylora.data.sources.examples import Classified, ClassifiedFile, Tagged
from raylora.errors import DataError


def read_classification(row: Row) -> Classified:
    """A text and its class.

    Args:
        row: `text` and `label`.

    Raises:
        DataError: A column holds something else.
    """
    return Classified(text_cell(row, "text"), _class(row["label"], "label"))


def read_tags(row: Row) -> Tagged:
    """Words and the class of each.

    Args:
        row: `tokens` and `tags`.

    Raises:
        DataError: They are not as many, or hold something else.
    """
    words, tags = (list_cell(row, column) for column in ("tokens", "tags"))
    if len(words) != len(tags):
        raise DataError(f"tokens are {len(words)} and tags {len(tags)}; each word has one tag")
    for at, word in enumerate(words):
        if not isinstance(word, str) or not word.strip():
            raise DataError(f"tokens[{at}]: a word, got {short(word)}")
    return Tagged(tuple(words), tuple(_class(tag, f"tags[{at}]") for at, tag in enumerate(tags)))


def read_file(column: str, row: Row) -> ClassifiedFile:
    """A file and its class: a path, or what columns of files are in `datasets`: bytes, or a path beside none.

    Args:
        column: Of the file.
        row: It and `label`.

    Raises:
        DataError: A column holds something else.
    """
    value, label = row[column], _class(row["label"], "label")
    if isinstance(value, Mapping):
        if isinstance(content := value.get("bytes"), str):
            with suppress(binascii.Error, ValueError):
                return ClassifiedFile(column, base64.b64decode(content, validate=True), label)
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise DataError(
            f"column {column!r} holds the path of a file, or {{bytes: ...}} with its content, which JSON has in "
            f"base64; got {short(row[column])}"
        )
    return ClassifiedFile(column, value, label)


def _class(value: Any, at: str) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{at}: a class by its name or its number, got {short(value)}")
    return value
