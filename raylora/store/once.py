"""Make a folder of the cache once, however many processes ask for it at the same time.

A folder's path and the work that fills it enter; the finished folder leaves, or nothing is left behind. Its name says
everything that its content depends on. Called by data and model.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from raylora.log import get_logger
from raylora.store.files import kind_of

log = get_logger(__name__)


def build_once(folder: Path, what: str, build: Callable[[Path], None]) -> Path:
    """Return `folder`, built by this process or by another that was faster.

    Args:
        folder: Where the result lies in the end; it appears whole, by a rename.
        what: What is made, for the log: "tokens of rows.jsonl".
        build: Fills the empty folder it is given. Whatever it raises leaves no folder behind.

    Raises:
        UnusableStoreError: The disk is full or read-only.
        StoreError: The cache cannot be written.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                log.info("making %s, once", what)
                started_s = time.monotonic()
                _build(folder, build)
                log.info("made %s in %.1f s; kept in %s", what, time.monotonic() - started_s, folder)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise kind_of(error)(
            f"{what}: {folder} could not be made ({error}). Check the free space and the rights of that disk, or "
            "set RAYLORA_HOME to a folder on another."
        ) from error
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    # What a killed process left is safe to remove: the lock is ours.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
