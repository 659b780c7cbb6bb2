"""Two workers on loopback, bounded in time and stopped by process id; what they wrote down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.contract import forked
from tests.contract.forked import ENDED, LEADER, SAID, line_of, said_by
from tests.servers.process import free_ports

REPOSITORY = Path(__file__).parents[2]
LIMIT_S, LOOK_S = 400, 0.05
LATE = ("raylora.strategy.fsdp", "raylora.strategy.deepspeed", "transformers.models.llama.modeling_llama", "peft")
"""What a run imports when it is built; some of it takes seconds."""


@dataclass(frozen=True)
class Seen:
    """What a single process and a group wrote down.

    Args:
        folder: With a JSON file for each case.
        last_words: What `run_group` returned.
    """

    folder: Path
    last_words: list[str]

    def __getitem__(self, case: str) -> Any:
        file = self.folder / f"{case}.json"
        assert file.exists(), f"the group never came to {case}; its workers said:\n" + "\n---\n".join(self.last_words)
        seen = json.loads(file.read_text())
        assert "error" not in seen, seen["error"]
        return seen


def run_group(
    folder: Path,
    num_workers: int = 2,
    program: str = "tests.contract.strategy_worker",
    late: Sequence[str] = (),
) -> list[str]:
    """Run a program on a folder in every worker; return what each printed last.

    Args:
        folder: What the program works on.
        num_workers: Ranks of its process group.
        program: A module that is run as `__main__`, with the folder as its argument.
        late: Modules that it imports while it works, imported once for all groups of this process.
    """
    (port,) = free_ports(1)
    place = {"WORLD_SIZE": str(num_workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    forks = _forks()
    assert forks.stdin is not None
    forks.stdin.write(line_of(program, late, folder, num_workers, os.environ | place))
    forks.stdin.flush()
    deadline = time.monotonic() + LIMIT_S
    # What is missing in the end fails its own test, with the workers' last words.
    while not (folder / ENDED).exists() and forks.poll() is None and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    with suppress(FileNotFoundError, ProcessLookupError):
        os.killpg(int((folder / LEADER).read_text()), signal.SIGKILL)
    logs = [said_by(folder, rank) for rank in range(num_workers)]
    return [(log if log.exists() else folder / SAID).read_text(errors="replace")[-3000:] for log in logs]


@cache
def _forks() -> subprocess.Popen[bytes]:
    """The process that forks all groups of this one; what it says itself is this one's standard error."""
    words = [sys.executable, "-m", forked.__name__]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
