"""Sides of a comparison take turns in one run: one works while the others wait, A B A B.

A side is one or more processes (ranks) that load whatever they compare, connect here and wait. What is measured is
measured by the side itself. Its half of the conversation is `player.py`: one JSON object a line over loopback.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from benchmarks.player import ADDRESS, SIDE

REPOSITORY = Path(__file__).parents[1]
START_LIMIT_S = 400.0
TURN_LIMIT_S = 600.0
END_LIMIT_S = 20.0
Report = dict[str, Any]


class SideFailed(Exception):
    """A side could not start or broke off; the text says why."""


@dataclass(frozen=True)
class Command:
    """One process of a side.

    Args:
        argv: What to run, without the interpreter where it starts with ``-m``.
        env: Environment variables beside those of this process.
    """

    argv: Sequence[str]
    env: Mapping[str, str]


class Side:
    """A side that is ready.

    Args:
        name: What it is called.
        lines: Its ranks' connections, in rank order.
        ready: What each rank told when it was ready.
        processes: To be ended.
    """

    def __init__(
        self, name: str, lines: list[Any], ready: list[Report], processes: list[subprocess.Popen[bytes]]
    ) -> None:
        self.name, self.ready = name, ready
        self._lines, self._processes = lines, processes

    def turn(self) -> list[Report]:
        """Let every rank work once; returns what each measured, in rank order.

        Raises:
            SideFailed: A rank broke off.
        """
        for line in self._lines:
            line.write("go\n")
            line.flush()
        return [_heard(line, self.name) for line in self._lines]

    def leave(self) -> None:
        """End it."""
        for line in self._lines:
            line.close()
        _end(self._processes)


class Stage:
    """Starts sides and ends them all when its block is left."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.2)
        self._logs = TemporaryDirectory(prefix="raylora-benchmarks-")
        self._sides: list[Side] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for side in self._sides:
            side.leave()
        self._server.close()
        self._logs.cleanup()

    def enter(self, name: str, commands: Sequence[Command], num_ranks: int = 1) -> Side:
        """Start a side and wait until all of its ranks are ready.

        Args:
            name: What it is called.
            commands: Its processes.
            num_ranks: How many ranks will connect; a launcher's own process does not.

        Raises:
            SideFailed: It ended, told of an error, or took longer than `START_LIMIT_S`.
        """
        print(f"{name}: starting", file=sys.stderr, flush=True)
        log = Path(self._logs.name, f"{len(self._sides)}.log")
        address = "{}:{}".format(*self._server.getsockname())
        processes = [_start(command, {ADDRESS: address, SIDE: name}, log) for command in commands]
        lines: dict[int, Any] = {}
        ready: dict[int, Report] = {}
        deadline = time.monotonic() + START_LIMIT_S
        try:
            while len(lines) < num_ranks:
                line = self._accept(processes, log, deadline)
                told = _heard(line, name)
                lines[told["rank"]], ready[told["rank"]] = line, told
        except SideFailed:
            _end(processes)
            raise
        side = Side(name, [lines[rank] for rank in range(num_ranks)], [ready[r] for r in range(num_ranks)], processes)
        self._sides.append(side)
        return side

    def _accept(self, processes: list[subprocess.Popen[bytes]], log: Path, deadline: float) -> Any:
        while time.monotonic() < deadline:
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                ended = [process for process in processes if process.poll() is not None]
                if ended:
                    raise SideFailed(f"ended with code {ended[0].returncode}: {_last_line(log)}") from None
                continue
            connection.settimeout(TURN_LIMIT_S)
            return connection.makefile("rw")
        raise SideFailed(f"not ready after {START_LIMIT_S:.0f} s: {_last_line(log)}")


def _start(command: Command, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, *command.argv],
            env=os.environ | dict(env) | dict(command.env),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )


def _heard(line: Any, name: str) -> Report:
    try:
        text = line.readline()
    except TimeoutError:
        raise SideFailed(f"{name} did not answer within {TURN_LIMIT_S:.0f} s") from None
    if not text:
        raise SideFailed(f"{name} broke off")
    told: Report = json.loads(text)
    if "error" in told:
        raise SideFailed(told["error"])
    return told


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                process.wait(END_LIMIT_S)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal_number)  # a launcher's ranks are in its group
        process.wait()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was printed"
