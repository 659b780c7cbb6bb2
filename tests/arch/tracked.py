"""The files git tracks: what a clone would get."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.arch.source_tree import REPOSITORY


def tracked_files(*patterns: str) -> list[Path]:
    """Absolute paths of tracked files that still exist and match one of ``patterns``; all of them without any."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    paths = (REPOSITORY / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def tracked_texts(*patterns: str) -> dict[str, str]:
    """Path below the repository and text of each tracked file that is text."""
    texts = {}
    for path in tracked_files(*patterns):
        data = path.read_bytes()
        if b"\0" not in data:
            texts[str(path.relative_to(REPOSITORY))] = data.decode("utf-8")
    return texts
