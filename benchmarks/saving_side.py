"""Steps of one run with and without a checkpoint that is written beside them: one process, no Ray.

Started by `saving.py` with the path of a workload; its options: ``store``, where checkpoints go, and ``num_steps``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.player import Player, play
from benchmarks.raylora_side import CPU, run_spec, step_batches
from benchmarks.workload import LEARNING_RATE, Workload
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.store.blob import open_store
from raylora.store.checkpoint import Checkpoint, save_checkpoint
from raylora.train.build import build
from raylora.train.ranks import Ranks
from raylora.train.snapshot import Progress, take
from raylora.train.step import Share, train_step
from raylora.train.writing import Writing


def main(player: Player) -> None:
    """Build; in a turn some steps without a checkpoint, then as many after one was begun."""
    work = Workload.read(sys.argv[1])
    torch.set_num_threads(work.num_threads)
    store, num_steps = open_store(work.options["store"]), work.options["num_steps"]
    trainee = build(run_spec(replace(work, options={})), Path(work.base), ("base", None), CPU)
    trainee.train_mode(True)
    rows, step = TokenisedRows.of((), [work.table()]), 0

    def write(checkpoint: Checkpoint) -> str:
        nonlocal written_s
        start = perf_counter()
        uri = save_checkpoint(store, checkpoint, keep=2)
        written_s = perf_counter() - start
        return uri

    def steps() -> float:
        nonlocal step
        start = perf_counter()
        for _ in range(num_steps):
            train_step(trainee, [Share(0, step, LEARNING_RATE, step_batches(work, rows, step, 0))])
            step += 1
        return perf_counter() - start

    written_s = 0.0
    writing = Writing(Ranks(), write)
    steps()
    player.tell(ran=trainee.strategy.name)
    while player.wait():
        told: dict[str, Any] = {"without_s": steps()}
        start = perf_counter()
        writing.begin(partial(take, trainee, 0, Progress(step=step), {}))
        told["waited_s"] = perf_counter() - start
        told["with_s"] = told["waited_s"] + steps()
        writing.settle()
        player.tell(**told, written_s=written_s)


if __name__ == "__main__":
    play(main)
