"""A worker that is forked is the one that Ray started, but for what it has imported, and neither outlives the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.command import wait_until
from tests.servers.forks import ASKED_FOR, forked, of_workers
from tests.servers.site.sitecustomize import WORKER

pytestmark = pytest.mark.cluster

PROGRAM = """
import json, os, sys, time
import beside

print(json.dumps({
    "pid": os.getpid(), "has_torch": "torch" in sys.modules, "folder": os.getcwd(), "words": sys.argv[1:],
    "greeting": os.environ.get("GREETING"), "niceness": os.getpriority(os.PRIO_PROCESS, 0), "name": __name__,
}), flush=True)
time.sleep(600)
"""
Start = Callable[..., tuple[subprocess.Popen[str], dict[str, Any]]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Starts a program of the name of Ray's worker's, in an environment of its own; returns it and what it said."""
    monkeypatch.setenv(ASKED_FOR, "1")
    program = tmp_path / WORKER
    program.write_text(PROGRAM)
    (tmp_path / "beside.py").touch()
    processes: list[subprocess.Popen[str]] = []

    def started(**env: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        process = subprocess.Popen(
            ["nice", "-n", "3", sys.executable, "-u", str(program), "--word"],
            env={**os.environ, **of_workers(), **env},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())

    yield started
    for process in processes:
        process.kill()
        process.wait(60)


def test_it_is_the_worker_that_was_started(start: Start, tmp_path: Path):
    process, said = start(GREETING="hello")
    assert said == {
        "pid": forked()[process.pid],
        "has_torch": True,
        "folder": str(tmp_path),
        "words": ["--word"],
        "greeting": "hello",
        "niceness": min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19),
        "name": "__main__",
    }
    psutil.Process(said["pid"]).kill()
    assert process.wait(60) == 0


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_it_ends_with_the_one_that_stayed_behind(start: Start, how: str):
    process, said = start()
    worker = psutil.Process(said["pid"])
    assert worker.pid != process.pid
    getattr(process, how)()
    process.wait(60)
    wait_until(lambda: not worker.is_running(), 60)


def test_what_imports_would_read_otherwise_is_not_forked(start: Start, tmp_path: Path):
    process, said = start(HF_HOME=str(tmp_path))
    assert (said["pid"], said["has_torch"]) == (process.pid, False)
