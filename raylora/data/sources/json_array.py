"""The text of a JSON array becomes its objects, one at a time, so that the file may be larger than memory.

Enters: a function that reads characters. Leaves: the text of each object. Called by formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from raylora.errors import DataError

_CHUNK_CHARS = 1 << 20


def array_items(read: Callable[[int], str], name: str) -> Iterator[str]:
    """Yield the text of each object of an array whose opening bracket was read.

    Args:
        read: Reads up to so many characters; an empty text at the end.
        name: The file's name for errors.

    Raises:
        DataError: The text is no JSON array; the message names the row.
    """
    decode = json.JSONDecoder().raw_decode
    text, at, number, is_separator_next = "", 0, 0, False
    while True:
        at = _next_solid(text, at)
        if at == len(text):
            text, at = read(_CHUNK_CHARS), 0
            if not text:
                raise DataError(f"{name}, row {number + 1}: the file ends inside its JSON array")
        elif text[at] == "]" and (is_separator_next or number == 0):
            return
        elif is_separator_next:
            if text[at] != ",":
                raise DataError(f"{name}, row {number + 1}: expected ',' or ']' before it, got {text[at]!r}")
            at, is_separator_next = at + 1, False
        else:
            try:
                start, (_, at) = at, decode(text, at)
            except RecursionError as error:
                raise DataError(f"{name}, row {number + 1}: nested too deeply") from error
            except json.JSONDecodeError as error:
                rest = text[at:]
                more = read(max(len(rest), _CHUNK_CHARS)) if _may_go_on(error) else ""
                if not more:
                    raise DataError(f"{name}, row {number + 1}: not JSON ({error.msg})") from error
                text, at = rest + more, 0
                continue
            except ValueError as error:  # a number of more digits than Python reads
                raise DataError(f"{name}, row {number + 1}: not JSON that can be read ({error})") from error
            number, is_separator_next = number + 1, True
            yield text[start:at]


def _next_solid(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _may_go_on(error: json.JSONDecodeError) -> bool:
    """Whether the text may only have been cut: the fault is at its end, or is a string that does not end."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - len("\\uXXXX\\uXXXX")
