"""A value enters, the words for it in a message leave: short, printable, in YAML's spelling, without passwords."""

from __future__ import annotations

from typing import Any

from raylora.spec.text.secrets import starred

MAX_CHARS = 80
MAX_DEPTH = 3


def show(value: Any) -> str:
    """Return a value as the user would recognise it in the file."""
    text = _text(value)
    text = starred(text)
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 3]}..."


def printable(text: str) -> str:
    """Return a text as it is, or escaped where a terminal could not show it."""
    return text if text.isprintable() else ascii(text)


def _text(value: Any, depth: int = 0) -> str:
    if depth > MAX_DEPTH:
        return "..."
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{printable(key)}: {_text(each, depth + 1)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(each, depth + 1) for each in value) + "]"
    return repr(value)
