"""A server of another make as a child process: on loopback, bounded in time, stopped by its own process group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens on, all different: every socket is held until the last is found."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """A command that serves until it is stopped.

    Args:
        command: What to run.
        log: File for what it prints.
        is_ready: Whether it serves; asked again and again, may raise `OSError`.
        env: Variables beside this process's own.
        start_timeout_s: Longest start.
        stop_signal: What makes it stop at once.
        user: User to run as; this process's own where absent.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        is_ready: Callable[[], bool],
        *,
        env: Mapping[str, str] | None = None,
        start_timeout_s: float = 90.0,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: str | None = None,
    ) -> None:
        self.stop_signal = stop_signal
        self.command, self.log, self.is_ready = list(command), log, is_ready
        self.server_env, self.start_timeout_s, self.user = dict(env or {}), start_timeout_s, user
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.server_env,
                start_new_session=True,  # its children are stopped with it
                cwd=self.log.parent,
                user=self.user,
                extra_groups=[] if self.user else None,
            )
        deadline = time.monotonic() + self.start_timeout_s
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.command[0]} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)

    def stop(self, how: signal.Signals | None = None) -> None:
        """Stop it and all of its children; twice is fine."""
        if self.process is None:
            return
        self._signal(how or self.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=15)
        self._signal(signal.SIGKILL)
        self.process.wait(timeout=15)
        self.process = None

    def _signal(self, how: signal.Signals) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)

    def _answers(self) -> bool:
        try:
            return self.is_ready()
        except OSError:
            return False
