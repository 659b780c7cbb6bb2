"""Two workers on loopback, bounded in time and stopped by process id; what they wrote down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.process import free_ports

LIMIT_S = 400
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
        late: Modules that it imports while it works, imported once for all workers.
    """
    (port,) = free_ports(1)
    place = {"WORLD_SIZE": str(num_workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.contract.forked", program, str(folder), str(num_workers), *late]
    begun, logs = folder / "group.log", [folder / f"worker-{rank}.log" for rank in range(num_workers)]
    with begun.open("wb") as out:
        group = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | place, start_new_session=True
        )
    try:
        # What is missing in the end fails its own test, with the workers' last words.
        with suppress(subprocess.TimeoutExpired):
            group.wait(timeout=LIMIT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(group.pid, signal.SIGKILL)
        group.wait(timeout=15)
    return [(log if log.exists() else begun).read_text(errors="replace")[-3000:] for log in logs]
