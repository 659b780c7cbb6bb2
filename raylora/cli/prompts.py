"""A file of prompts: a line of text each, or a line of JSON with ``prompt``. Called by ``generate``."""

from __future__ import annotations

import json
from pathlib import Path

from raylora.errors import DataError, InputError

ENDINGS = (".jsonl", ".txt")
SHOWN = 8
"""Malformed lines that an error names; the others are counted."""


def read_prompts(path: Path) -> list[str]:
    """Read the prompts of a file in order; lines without text are passed over.

    Args:
        path: A ``.txt`` file, whose every line is a prompt, or a ``.jsonl`` file of ``{"prompt": "..."}``.

    Raises:
        InputError: There is no such file, it cannot be read, or has another ending or no prompt; or lines of it, which
            are named, are malformed.
    """
    from raylora.data.sources.formats import read_rows

    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"--file {path}: got the ending {ending!r}. Allowed: {', '.join(ENDINGS)}. Convert it")
    try:
        lines = list(read_rows(path, str(path), ".jsonl"))  # lines as they are, whatever is in them
    except OSError as error:
        raise InputError(f"--file {path}: cannot be read ({error.strerror}). Check the path") from error
    except DataError as error:
        raise InputError(f"--file {error}") from error
    if not lines:
        raise InputError(f"--file {path}: has no prompt. Write one a line")
    if ending == ".txt":
        return [text for _, text in lines]
    prompts: list[str] = []
    wrong: list[str] = []
    for number, text in lines:
        prompt = _prompt(text)
        if prompt is None:
            wrong.append(f"line {number}: {text[:40]!r}")
        else:
            prompts.append(prompt)
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise InputError(
            f"--file {path}: {len(wrong)} malformed: {'; '.join(wrong[:SHOWN])}{more}. Allowed: a JSON object with a "
            'prompt on each line, such as {"prompt": "some text"}'
        )
    return prompts


def _prompt(text: str) -> str | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    return prompt if isinstance(prompt, str) and prompt.strip() else None
