"""What a column of a row holds: text, or a list, which CSV files have as JSON. Called by the readers of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from raylora.data.sources.conversation import short
from raylora.errors import DataError

Row = Mapping[str, Any]


def text_cell(row: Row, column: str) -> str:
    """Return the text in a column.

    Args:
        row: By the names that its type reads.
        column: One of them.

    Raises:
        DataError: It holds something else.
    """
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"column {column!r} holds text, got {short(value)}")
    return value


def list_cell(row: Row, column: str) -> list[Any]:
    """Return the list in a column, which CSV files hold as its JSON text.

    Args:
        row: By the names that its type reads.
        column: One of them.

    Raises:
        DataError: It holds something else, or nothing.
    """
    value = row[column]
    if isinstance(value, str) and is_json(value):
        with suppress(ValueError, RecursionError):  # no JSON, or a number of more digits than Python reads
            value = json.loads(value)
    if not isinstance(value, list) or not value:
        raise DataError(f"{column}: a list with something in it, got {short(row[column])}")
    return value


def is_json(text: str) -> bool:
    """Whether a text is a list, as far as its beginning tells."""
    return text.lstrip().startswith("[")
