"""The tables of a page of the documentation, and the names that they give to where a run goes on."""

from __future__ import annotations

import re

ENDS = {
    **{"`ddp`": "ddp", "`fsdp`": "fsdp", "ZeRO-1": "zero1", "ZeRO-2": "zero2", "ZeRO-3": "zero3"},
    "one process": "alone",
}


def tables(text: str) -> dict[str, dict[tuple[str, str], str]]:
    """Cells of each table by the names of line and column; the tables by the first cell of their heads."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *lines = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
        cells = {(line[0], name): cell for line in lines for name, cell in zip(head[1:], line[1:], strict=True)}
        found[head[0]] = cells
    return found
