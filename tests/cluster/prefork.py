"""`raylora`, forked from one process that has imported what its drivers import: that takes ten seconds of a core.

Enters: on standard input, a command a line. Leaves: beside what each says, its process id in `pid`, and its exit code
in `code`. Ends with its standard input. Started by `command`, whose other way is a process from the start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tests.servers.ray import REPOSITORY, TOKEN
from tests.variables import set_variables

PROGRAM = "from raylora.cli.app import main; main()"
LATE = (
    "raylora.runtime.launch",
    "raylora.runtime.preflight",
    "raylora.tracking.loss_picture",
    "raylora.tracking.inputs",
    "mlflow.store.tracking.sqlalchemy_store",
)
"""What a driver imports when it needs it."""

STRANGERS = ("AWS_", "MLFLOW_", "RAYLORA_", "RAY_ADDRESS")
"""Beginnings of variables that a test sets itself or not at all; they are read when they are needed."""

set_variables()
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(STRANGERS)},
    **TOKEN,
    "PYTHONPATH": str(REPOSITORY),
}
"""What commands start with, and what the process that forks them imports in: this process's own before the first test.

Ray and what Tune imports set more in it, after which no command would be forked.
"""

OUT, ERR, PID, CODE = "out", "err", "pid", "code"
LOOK_S = 0.02
START_PATIENCE_S = 120.0


class Forked:
    """A command of such a process, asked as a `subprocess.Popen` is.

    Args:
        words: Behind `raylora`.
        said: Folder for what it says.
        folder: It runs in.
        env: Its environment.
    """

    def __init__(self, words: Sequence[str], said: Path, folder: Path, env: Mapping[str, str]) -> None:
        self._said = said
        asked = {"words": list(words), "said": str(said), "folder": str(folder), "env": dict(env)}
        server = _server()
        assert server.stdin is not None
        server.stdin.write(json.dumps(asked).encode() + b"\n")
        server.stdin.flush()
        deadline = time.monotonic() + START_PATIENCE_S
        while (pid := self._number(PID)) is None:
            assert server.poll() is None and time.monotonic() < deadline, "no process was forked"
            time.sleep(LOOK_S)
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._number(CODE)

    def wait(self, timeout: float) -> int:
        """Its exit code, when it has ended."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("raylora", timeout)
            time.sleep(LOOK_S)
        return code

    def _number(self, name: str) -> int | None:
        with suppress(FileNotFoundError):
            return int((self._said / name).read_text())
        return None


@cache
def _server() -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", __name__]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=ENVIRONMENT, cwd=REPOSITORY)


def main() -> None:
    """Import, and fork for each line."""
    from raylora.cli.output import silence_bars
    from raylora.runtime.cluster.imports import importing

    silence_bars()
    before = set(os.environ)
    with importing():
        command = import_module("raylora.cli.app").main
        for name in LATE:
            import_module(name)
    set_by_imports = {name: value for name, value in os.environ.items() if name not in before}
    for line in sys.stdin:
        if os.fork() == 0:
            _begin(json.loads(line), set_by_imports)
            return command()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _begin(asked: dict[str, Any], set_by_imports: Mapping[str, str]) -> None:
    """Be the command; this process stays behind to tell its end."""
    said = Path(asked["said"])
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        _tell(said / CODE, os.waitstatus_to_exitcode(status))
        _leave()
    os.setsid()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update({**set_by_imports, **asked["env"]})
    for number, name in enumerate((os.devnull, said / OUT, said / ERR)):
        file = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0)  # the other commands' lines are read ahead
    sys.argv = ["raylora", *asked["words"]]
    np.random.seed()
    _tell(said / PID, os.getpid())


def _tell(path: Path, number: int) -> None:
    """Write a file that is whole when it is there."""
    whole = path.with_suffix(".new")
    whole.write_text(str(number))
    whole.rename(path)


def _leave() -> NoReturn:
    os._exit(0)


if __name__ == "__main__":
    main()
