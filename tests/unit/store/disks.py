"""Small and closed disks: real file systems, mounted for one test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.lacking import PRIVILEGE, lacking


@contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A memory disk at `folder`."""
    folder.mkdir()
    run = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
        timeout=30,
    )
    if run.returncode != 0:
        lacking(f"this user may not mount a disk: {run.stderr.decode().strip()}", PRIVILEGE)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


def fill(folder: Path) -> Path:
    """Leave no room on a mounted disk; again, take what has become free. Returns the file that has it."""
    rest = folder / "rest"
    with rest.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return rest


def close(folder: Path) -> None:
    """Let nobody write to a mounted disk any more, the superuser included."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, timeout=30)
