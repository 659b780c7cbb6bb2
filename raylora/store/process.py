"""A process as another one finds it again: its machine, its number and when it started. Called by the lease."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_ZOMBIE, _STATE, _STARTED = "Z", 0, 19
"""Places in what follows the name in /proc/PID/stat (see proc(5))."""


class Process(BaseModel):
    """One process."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    """Name of its machine, for people."""

    machine: str | None
    """This boot of this machine and this container: the same number means the same process there only."""

    pid: int
    """Its number."""

    started: str | None
    """When it started, as its machine counts: numbers are used again."""


def here() -> Process:
    """Return this process."""
    pid = os.getpid()
    return Process(host=socket.gethostname(), machine=_machine(), pid=pid, started=_started(pid))


def lives(process: Process) -> bool | None:
    """Return whether a process lives; None where it cannot be told from here."""
    if process.machine is None or process.machine != _machine():
        return None
    return _started(process.pid) == process.started


def _machine() -> str | None:
    """None where there is no /proc: a host's name alone may be that of many."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """None where there is no such process, or only what is left of it until its parent asks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[_STATE] == _ZOMBIE else fields[_STARTED]
