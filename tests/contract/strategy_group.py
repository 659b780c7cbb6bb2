"""Two workers on loopback, bounded in time and stopped by process id."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.servers.process import free_ports

LIMIT_S = 400


def run_group(folder: Path, num_workers: int = 2, program: str = "tests.contract.strategy_worker") -> list[str]:
    """Run a program on a folder in every worker; return what each printed last."""
    (port,) = free_ports(1)
    place = {"WORLD_SIZE": str(num_workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", program, str(folder)]
    logs = [folder / f"worker-{rank}.log" for rank in range(num_workers)]
    workers = []
    for rank, log in enumerate(logs):
        env = os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("wb") as out:
            workers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env))
    deadline = time.monotonic() + LIMIT_S
    try:
        for worker in workers:
            worker.wait(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # what is missing fails its own test, with the workers' last words
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(timeout=15)
    return [log.read_text(errors="replace")[-3000:] for log in logs]
