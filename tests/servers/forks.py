"""Workers of the tests' Rays, forked from one process that has imported what they import: that takes each four seconds.

Enters: from `site/sitecustomize.py`, in a worker that starts, its words, environment and place, and its standard files.
Leaves: a process that goes on as that worker, and in a file that is named by the worker's process id, its own. Ends
with its standard input. Only where `make test` asks for it: faults strike workers that were started one by one, and so
does a test that is run by itself.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil

from raylora.cli.output import BAR_VARIABLES
from tests.servers.site import sitecustomize

REPOSITORY = Path(__file__).resolve().parents[2]
SITE = Path(sitecustomize.__file__).parent
ASKED_FOR = "RAYLORA_TESTS_FORK_WORKERS"
FORKS = "FORKS"
NOTED = ".forked"
START_S = 60.0
"""A worker is forked in less; where more lies between them, an id is that of another process by now."""
IMPORTED = (
    *("raylora.train.build", "raylora.train.loop", "raylora.strategy.fsdp", "peft", "datasets", "pandas", "s3fs"),
    "transformers.models.llama.modeling_llama",
)
"""The core in its own order, and what it imports late. Not Ray, which reads a worker's variables when it is imported;
not DeepSpeed, which brings MLflow, of which workers know nothing."""

READ = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH", "PYTORCH_", "DS_", "BNB_", "ACCELERATE_", "CUDA_")
READ_BY_C = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "OPENBLAS_", "MALLOC_", "LD_")
"""Beginnings of variables that the libraries read when they are imported: where one differs, nothing is forked."""

OF_BARS = set(BAR_VARIABLES)
"""These a driver sets itself."""

STRANGERS = ("AWS_", "MLFLOW_", "RAYLORA_", "RAY_ADDRESS")
"""Beginnings of variables that a test sets itself or not at all; they are read when they are needed."""


def of_workers() -> dict[str, str]:
    """Variables with which Ray's processes find this repository, and are forked where that is asked for."""
    server = _server() if os.environ.get(ASKED_FOR) else None
    path = os.pathsep.join(map(str, (SITE, REPOSITORY)))
    return {"PYTHONPATH": path} | ({} if server is None else {FORKS: server})


def forked() -> dict[int, int]:
    """Processes that are or were workers, each by the one that Ray started, in whose place it is.

    Process ids come again: `workers_in_place_of` knows which are meant.
    """
    if not os.environ.get(ASKED_FOR):
        return {}
    noted = (path for path in Path(_server()).parent.iterdir() if path.suffix == NOTED)
    return {int(path.stem): int(path.read_text()) for path in noted}


def workers_in_place_of(started: Iterable[psutil.Process]) -> Iterator[psutil.Process]:
    """Workers that live in the place of some of the processes, and what they have started."""
    others = forked()
    for process in started:
        with suppress(KeyError, psutil.NoSuchProcess):
            worker = psutil.Process(others[process.pid])
            if 0 <= worker.create_time() - process.create_time() < START_S:
                yield from (worker, *worker.children(recursive=True))


@cache
def _server() -> str:
    folder = Path(tempfile.mkdtemp(prefix="forks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    line = folder / "line"
    env = {name: value for name, value in os.environ.items() if not name.startswith(STRANGERS)}
    env["PYTHONPATH"] = str(REPOSITORY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(line))  # here: who asks before the other process serves waits for it
        server.listen(64)
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder), str(server.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=env,
            cwd=REPOSITORY,
            pass_fds=[server.fileno()],
        )
    return str(line)


def main(folder: Path, number: int) -> None:
    """Import, and fork for each that asks at a listening socket."""
    from raylora.runtime.cluster.imports import importing

    before = dict(os.environ)
    with socket.socket(fileno=number) as server:
        with importing():
            for name in IMPORTED:
                import_module(name)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that were forked
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            line, _ = server.accept()
            with line, suppress(OSError):  # who asked may be gone
                _serve(line, before, folder)


def _serve(line: socket.socket, before: Mapping[str, str], folder: Path) -> None:
    text, files, _, _ = socket.recv_fds(line, 65536, 3)
    try:
        while not text.endswith(b"\n"):
            more = line.recv(65536)
            if not more:
                return
            text += more
        asked, pid = json.loads(text), 0
        if _is_alike(asked, before):
            pid = os.fork()
            if not pid:
                _be(asked, files, line, before)
            (folder / "new").write_text(str(pid))
            (folder / "new").rename(folder / f"{asked['pid']}{NOTED}")
        line.sendall(b"%d\n" % pid)
    finally:
        for file in files:
            os.close(file)


def _is_alike(asked: Mapping[str, Any], before: Mapping[str, str]) -> bool:
    """Whether a worker is on this host and would import all as it was imported here."""
    env = asked["env"]
    names = (name for name in {*env, *before} - OF_BARS if name.startswith((*READ, *READ_BY_C)))
    # A driver that started its own Ray has imported them, too, and some set variables then.
    are_alike = all(env.get(name) in (before.get(name), os.environ.get(name)) for name in names)
    return asked["host"] == sitecustomize.host() and are_alike


def _be(asked: Mapping[str, Any], files: list[int], line: socket.socket, before: Mapping[str, str]) -> NoReturn:
    """Be the worker."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, asked["blocked"])
    os.setpriority(os.PRIO_PROCESS, 0, asked["niceness"])
    os.chdir(asked["folder"])
    for name in before:
        os.environ.pop(name, None)
    os.environ.update(asked["env"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    threading.Thread(target=_end_with, args=(line.dup(),), daemon=True).start()
    np.random.seed()
    sitecustomize.begin()
    program = asked["words"][0]
    sys.argv, sys.path[:] = asked["words"], [str(Path(program).parent), *asked["path"]]
    runpy.run_path(program, run_name="__main__")
    sys.exit()


def _end_with(line: socket.socket) -> NoReturn:
    """Ray may end the process that it started."""
    line.recv(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
