"""A pseudo-terminal: what a command writes to it, and what would be seen on it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

ROWS, COLUMNS = 24, 100


def written_to_terminal(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Exit code of a command whose standard error is a terminal, and all that it wrote there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(words, cwd=cwd, env=env, stdin=nowhere, stdout=nowhere, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the last process that had the terminal is gone
                break
            if not part:
                break
            written += part
    os.close(ours)
    return process.returncode, written.decode()


def seen(written: str) -> list[str]:
    """Lines that are seen in the end, as far as lines are written, erased and gone back to; colours are passed over."""
    lines, row, column = [""], 0, 0
    for code, char in re.findall(r"\x1b\[([\d;?]*[A-Za-z])|(.)", written, re.DOTALL):
        if code == "2K":
            lines[row] = ""
        elif code.endswith("A"):
            row -= int(code[:-1])
        elif char == "\r":
            column = 0
        elif char == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif char:
            lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
            column += 1
    return lines


def cells(text: str) -> list[list[str]]:
    """What the rows of a table say, without their frame."""
    lines = [re.split(r"\s*[│┃]\s*|\s{2,}", line.strip(" │┃")) for line in text.splitlines()]
    return [[cell for cell in line if cell] for line in lines]
