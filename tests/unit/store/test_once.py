"""A folder of the cache is made once, whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from raylora.errors import StoreError, UnusableStoreError
from raylora.store.once import build_once


def build_slowly(folder: Path) -> None:
    """Leave a trace beside the folder of every time it is built."""
    with open(folder.parent / "built", "a") as trace:
        trace.write("once\n")
    (folder / "first").write_text("1")
    time.sleep(0.5)
    (folder / "second").write_text("2")


def ask(folder: Path) -> list[str]:
    return sorted(path.name for path in build_once(folder, "a folder", build_slowly).iterdir())


def die(folder: Path) -> None:
    """Fill half of the folder and vanish, as after an out-of-memory kill."""
    (folder / "first").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_and_threads_that_ask_together_build_once(tmp_path: Path):
    folder = tmp_path / "cache" / "made"
    got: list[list[str]] = []
    threads = [threading.Thread(target=lambda: got.append(ask(folder))) for _ in range(2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        asked = pool.map_async(ask, [folder] * 2)
        for thread in threads:
            thread.start()
        got += asked.get(timeout=60)
    for thread in threads:
        thread.join(timeout=60)
    assert got == [["first", "second"]] * 4
    assert (folder.parent / "built").read_text() == "once\n"


def test_what_a_killed_process_left_is_built_again(tmp_path: Path):
    folder = tmp_path / "made"
    process = multiprocessing.get_context("spawn").Process(target=build_once, args=(folder, "a folder", die))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert not folder.exists()
    assert ask(folder) == ["first", "second"]
    assert {path.name for path in tmp_path.iterdir()} <= {"made", "made.lock", "built"}


def test_a_failed_build_leaves_nothing_and_its_own_error(tmp_path: Path):
    def fail(folder: Path) -> None:
        (folder / "first").write_text("1")
        raise ValueError("a reason")

    with pytest.raises(ValueError, match="a reason"):
        build_once(tmp_path / "made", "a folder", fail)
    assert {path.name for path in tmp_path.iterdir()} <= {"made.lock"}
    assert ask(tmp_path / "made") == ["first", "second"]


def test_a_full_disk_is_known_by_what_safetensors_says_of_it(tmp_path: Path):
    def fill(folder: Path) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(UnusableStoreError, match="could not be made"):
        build_once(tmp_path / "made", "a model", fill)


def test_a_cache_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match=r"tokens of x: .*cache/made could not be made .* set RAYLORA_HOME"):
        build_once(tmp_path / "cache" / "made", "tokens of x", build_slowly)
