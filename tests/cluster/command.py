"""The command `raylora` as its users meet it: a process of its own, with a home and a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.prefork import ENVIRONMENT, ERR, OUT, PROGRAM, STRANGERS, Forked

LONG_S = 400.0
"""A run takes a fraction of it where nothing else goes on."""

TAG = "STARTED_AS"
"""Of all processes that one command starts."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: Exit code.
        out: Standard output.
        err: Standard error.
        left_behind: Processes it started that outlived it.
    """

    code: int
    out: str
    err: str
    left_behind: tuple[str, ...]

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object and nothing else."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> str:
        """What the command tells a program about its failure."""
        error = self.json["error"]
        assert self.json["exit_code"] == self.code
        return str(error["message"])

    @property
    def begun(self) -> list[int]:
        """Steps that were done each time that workers began to train."""
        return [int(part.split()[0]) for part in self.err.split(" steps to do, ")[1:]]


class Command:
    """Starts `raylora` in a folder, as a user with a home of their own.

    Args:
        folder: Working directory.
        home: raylora's home.
        env: Further variables.
        door: Words before the command, such as those that lead to another host.
    """

    def __init__(
        self, folder: Path, home: Path, env: Mapping[str, str] | None = None, door: Sequence[str] = ()
    ) -> None:
        self.folder, self.home, self.door = folder, home, door
        self.env = {**ENVIRONMENT, "RAYLORA_HOME": str(home), **(env or {})}

    def run(self, *words: str, timeout_s: float = LONG_S) -> Ended:
        """Run a command to its end."""
        return self.start(*words).end(timeout_s)

    def start(self, *words: str) -> Running:
        """Start a command."""
        return Running(words, self)


class Running:
    """A command that goes on."""

    def __init__(self, words: Sequence[str], command: Command) -> None:
        self._tag = uuid.uuid4().hex
        self._said = Path(tempfile.mkdtemp(prefix="command-"))
        self._out, self._err = self._said / OUT, self._said / ERR
        self._out.touch()
        self._err.touch()
        env = {**command.env, TAG: self._tag}
        self.process: subprocess.Popen[bytes] | Forked
        # What goes on shares nothing with what was stopped, not even the order of a set.
        if not command.door and words[0] != "resume" and is_as_imported(env):
            self.process = Forked(words, self._said, command.folder, env)
            return
        program = [*command.door, sys.executable, "-c", PROGRAM, *words]
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                program,
                cwd=command.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """Standard error so far."""
        return self._err.read_text()

    def wait_for(self, text: str, timeout_s: float = LONG_S) -> None:
        """Wait until standard error says something."""
        with suppress(TimeoutError):
            wait_until(lambda: text in self.said or self.process.poll() is not None, timeout_s)
        said = self.said
        assert text in said, f"{text!r} was not said; code {self.process.poll()}: {self._out.read_text()}{said[-3000:]}"

    def interrupt(self) -> None:
        """Press Ctrl-C: a terminal sends SIGINT to the command and to everything it started."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, timeout_s: float = LONG_S) -> Ended:
        """Wait for the end; nothing that the command started outlives this."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, signal.SIGKILL)
            code = self.process.wait(30)
        left_behind = self._left_behind()
        for process in left_behind:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        ended = Ended(code, self._out.read_text(), self._err.read_text(), tuple(map(str, left_behind)))
        shutil.rmtree(self._said)
        return ended

    def _left_behind(self) -> list[psutil.Process]:
        """Processes that the command started and that outlived it by seconds."""
        with suppress(TimeoutError):
            wait_until(lambda: not self._started(), 20)
        return self._started()

    def _started(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                # What was forked shows the environment of the process that forked it.
                is_of_session = os.getsid(process.pid) == self.process.pid
                if is_of_session or process.environ().get(TAG) == self._tag:
                    found.append(process)
        return found


def is_as_imported(env: Mapping[str, str]) -> bool:
    """Whether a command would import all in such an environment as it was imported in; some is read then, once."""
    of_no_matter = (*STRANGERS, TAG, "PYTEST_")
    names = {name for name in {*env, *ENVIRONMENT} if not name.startswith(of_no_matter)}
    return all(env.get(name) == ENVIRONMENT.get(name) for name in names)


def overrides(*settings: str) -> list[str]:
    """Words of a command that set fields, of `field=value` each."""
    return [word for setting in settings for word in ("--set", setting)]


def wait_until(is_so: Callable[[], bool], timeout_s: float) -> None:
    """Ask again and again.

    Raises:
        TimeoutError: It did not come to be.
    """
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
