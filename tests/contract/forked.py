"""Ranks of groups, forked from one process that has imported what they work with: it takes longer than some work.

Enters: on standard input, a group a line. Leaves in the group's folder, beside what its program itself leaves: what
each rank says, the process id that leads the group, and a file that says that all its ranks have ended. Ends with its
standard input. Started by `strategy_group`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from raylora.runtime.cluster.imports import importing

SAID, LEADER, ENDED = "group.log", "leader", "ended"


def main() -> None:
    """Import what is not there yet, and fork, for each line."""
    before = set(os.environ)
    for line in sys.stdin:
        asked = json.loads(line)
        # Whatever an import raises, the ranks meet it again and say it; other groups go on.
        with importing(), suppress(Exception):
            for module in (asked["program"], *asked["late"]):
                import_module(module)
        if os.fork() == 0:
            lead(asked, {name: value for name, value in os.environ.items() if name not in before})
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def lead(asked: Mapping[str, Any], set_by_imports: Mapping[str, str]) -> NoReturn:
    """Start a group's ranks in the environment of who asked, and wait for all."""
    os.setsid()  # it is ended with its ranks
    folder = Path(asked["folder"])
    os.environ.clear()
    os.environ.update({**set_by_imports, **asked["env"]})
    _say_into(folder / SAID)
    _tell(folder / LEADER, os.getpid())
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=work, args=(asked["program"], folder, rank)) for rank in range(asked["num_ranks"])]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    _tell(folder / ENDED, os.getpid())
    os._exit(0)  # what was imported has other processes' ends to see to


def work(program: str, folder: Path, rank: int) -> None:
    """Be one rank: the program, as if it had been started with the folder."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    _say_into(said_by(folder, rank))
    sys.argv = [program, str(folder)]
    sys.modules.pop(program, None)  # it is run now, under the name of a program
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def said_by(folder: Path, rank: int) -> Path:
    """Where a rank's words are."""
    return folder / f"worker-{rank}.log"


def line_of(program: str, late: Sequence[str], folder: Path, num_ranks: int, env: Mapping[str, str]) -> bytes:
    """A group, as it is asked for.

    Args:
        program: A module that is run as `__main__` in each rank, with the folder as its argument.
        late: Modules that it imports while it works.
        folder: What the program works on.
        num_ranks: Of the group.
        env: Of all ranks.
    """
    asked = {"program": program, "late": list(late), "folder": str(folder), "num_ranks": num_ranks, "env": dict(env)}
    return json.dumps(asked).encode() + b"\n"


def _say_into(log: Path) -> None:
    with log.open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)


def _tell(file: Path, number: int) -> None:
    """Write a file that is whole when it is there."""
    whole = file.with_suffix(".new")
    whole.write_text(str(number))
    whole.rename(file)


if __name__ == "__main__":
    main()
