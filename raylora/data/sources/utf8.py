"""Text that is not UTF-8 is refused with the place of its first wrong byte. Called by formats."""

from __future__ import annotations

import codecs
from pathlib import Path

from raylora.errors import DataError

_CHUNK_BYTES = 1 << 20


def check_utf8(file: Path, name: str) -> None:
    """Read a text file through once and refuse it where it is not UTF-8.

    Args:
        file: The local file.
        name: What to call it in the error.

    Raises:
        DataError: Names the line, the byte and its offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, num_bytes = 1, 0
    with open(file, "rb") as stream:
        while True:
            chunk = stream.read(_CHUNK_BYTES)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder may have held back the first bytes of a character from the chunk before.
                offset = num_bytes + len(chunk) - len(error.object) + error.start
                line += error.object.count(b"\n", 0, error.start)
                raise DataError(
                    f"{name}, line {line}: not UTF-8 (byte {error.object[error.start]:#04x} at offset {offset:,}); "
                    "convert it, for example with: iconv -f LATIN1 -t UTF-8"
                ) from error
            if not chunk:
                return
            line += chunk.count(b"\n")
            num_bytes += len(chunk)
