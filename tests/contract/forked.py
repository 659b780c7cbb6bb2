"""The ranks of a group, forked from one process that has imported what they work with: it takes longer than some work.

Enters: a program, a folder, the number of ranks and modules that the program imports late, by argument. Leaves in the
folder what each rank prints, beside what the program itself leaves. Started by `strategy_group`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from importlib import import_module
from pathlib import Path

from raylora.runtime.cluster.imports import importing


def main(program: str, folder: str, num_ranks: str, *late: str) -> None:
    """Import, fork, and wait for all."""
    with importing():
        for module in (program, *late):
            import_module(module)
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=work, args=(program, Path(folder), rank)) for rank in range(int(num_ranks))]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()


def work(program: str, folder: Path, rank: int) -> None:
    """Be one rank: the program, as if it had been started with the folder."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    with (folder / f"worker-{rank}.log").open("wb") as said:
        os.dup2(said.fileno(), sys.stdout.fileno())
        os.dup2(said.fileno(), sys.stderr.fileno())
    sys.argv = [program, str(folder)]
    del sys.modules[program]  # it is run now, under the name of a program
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
