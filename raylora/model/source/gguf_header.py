"""What a GGUF file says of itself: the facts under `general.`, read without its tokenizer and tensors.

A `.gguf` file enters; its general facts and the logical name made of them leave. Called by `convert`.

Source: the GGUF file format, version 3 (ggml, docs/gguf.md): strings are a length of eight bytes and UTF-8.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

from raylora.errors import ModelError

SCALARS = "BbHhIif?"
"""struct's letter for each of GGUF's first eight value types; 8 is a string, 9 an array, then three of eight bytes."""

STRING, ARRAY = 8, 9
EIGHT_BYTES = {10: "Q", 11: "q", 12: "d"}

ENCODING = re.compile(r"[.-](I?Q\d\w*|TQ\d\w*|MXFP4\w*|B?F16|F32)$", re.IGNORECASE)
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+?)/?$")


def published_name(file: Path) -> str:
    """Name the model in a GGUF file as a hub would: the repository it names, else organization and file name.

    Args:
        file: A ``.gguf`` file.

    Raises:
        ModelError: It is no GGUF file.
    """
    facts = general_facts(file)
    for key in ("source.huggingface.repository", "source.repo_url", "repo_url"):
        if found := HUB_ID.search(facts.get(key, "")):
            return found[1]
    stem = ENCODING.sub("", file.stem)
    organization = facts.get("organization", "")
    return f"{organization}/{stem}" if re.fullmatch(r"[\w.-]+", organization) else stem


def general_facts(file: Path) -> dict[str, str]:
    """Read the texts under ``general.`` (name, organization, license ...), keyed without that prefix.

    Args:
        file: A ``.gguf`` file; writers put these facts first, so reading ends at the first other key.

    Raises:
        ModelError: It is no GGUF file, or ends early.
    """
    facts: dict[str, str] = {}
    with file.open("rb") as stream:
        try:
            magic, version, _num_tensors, num_facts = struct.unpack("<4sIQQ", stream.read(24))
            if magic != b"GGUF" or version < 2:
                raise ValueError(f"it starts with {magic!r}, version {version}")
            for _ in range(num_facts):
                key = _string(stream)
                if not key.startswith("general."):
                    break
                (kind,) = struct.unpack("<I", stream.read(4))
                value = _value(stream, kind)
                if isinstance(value, str):
                    facts[key.removeprefix("general.")] = value
        except (struct.error, ValueError, KeyError) as error:
            raise ModelError(
                f"base_model: {file} is no GGUF file of version 2 or 3 ({error}). Copy the file again."
            ) from error
    return facts


def _value(stream: BinaryIO, kind: int) -> object:
    if kind == STRING:
        return _string(stream)
    if kind == ARRAY:
        inner, length = struct.unpack("<IQ", stream.read(12))
        if inner == ARRAY:  # no fact is one, and they could lie in one another without end
            raise ValueError("an array of arrays")
        return [_value(stream, inner) for _ in range(length)]
    letter = SCALARS[kind] if kind < len(SCALARS) else EIGHT_BYTES[kind]
    return struct.unpack(f"<{letter}", stream.read(struct.calcsize(f"<{letter}")))[0]


def _string(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > 1 << 24:  # a file that is not GGUF would ask for any number of bytes
        raise ValueError(f"a text of {length} bytes")
    return stream.read(length).decode()
