"""One run of `full.py` from its first step to its validation: one process, no Ray.

Started by `full.py` with the path of a workload, whose options are fields of the run.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks.full import NUM_VALIDATION_ROWS
from benchmarks.player import Player, play
from benchmarks.raylora_side import CPU, run_spec
from benchmarks.workload import Workload
from raylora.data.batches import Batches
from raylora.data.collate import collate
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.spec.run import RunSpec
from raylora.train.build import build
from raylora.train.evaluate import evaluate
from raylora.train.memory import PeakMemory
from raylora.train.schedule import learning_rate
from raylora.train.step import Share, StepResult, train_step
from raylora.train.trainee import Trainee


def main(player: Player) -> None:
    """Build and validate; in the one turn train all steps, and validate again."""
    work = Workload.read(sys.argv[1])
    torch.set_num_threads(work.num_threads)
    spec, table = run_spec(work), work.table()
    num_rows = min(NUM_VALIDATION_ROWS, len(table) // 4)
    rows = TokenisedRows.of((), [table.slice(num_rows)])
    held_out = {0: Batches(spec, TokenisedRows.of((), [table.slice(0, num_rows)]), 0)}
    with PeakMemory(CPU) as memory:
        trainee = build(spec, Path(work.base), ("base", None), CPU)
        trainee.train_mode(True)
        before = evaluate(trainee, held_out)[0].loss
        player.tell(ran=trainee.strategy.name)
        player.wait()
        steps_s = _train(trainee, spec, rows)
    clock = player.stop()
    player.tell(
        **clock,
        eval_loss_before=before,
        eval_loss=evaluate(trainee, held_out)[0].loss,
        step_s=statistics.median(steps_s),
        peak_bytes=memory.peak_bytes - memory.start_bytes,
        mapped_bytes=mapped_bytes(trainee.frozen),
        optimizer_bytes=sum(moment.nbytes for name, moment in trainee.steppers[0].state() if name != "step"),
        trainable_parameters=trainee.num_trainable(0),
    )
    player.wait()  # until the stage is over


def mapped_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors that lie in files mapped into memory, which a process's own memory does not count; on Linux.

    Args:
        tensors: That nothing writes to: pages that were written to are the process's own.
    """
    ranges = [line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    bounds = [words[0].split("-") for words in ranges if len(words) > 5 and words[5].startswith("/")]
    of_files = [(int(start, 16), int(end, 16)) for start, end in bounds]
    return sum(each.nbytes for each in tensors if any(start <= each.data_ptr() < end for start, end in of_files))


def _train(trainee: Trainee, spec: RunSpec, rows: TokenisedRows) -> list[float]:
    """Train to the end, on rows in an order of the seed's; seconds of each step."""
    order = np.random.default_rng(spec.seed).permutation(len(rows))
    num_steps, steps_s = spec.max_steps or 0, list[float]()
    for step in range(num_steps):
        start = perf_counter()
        picked = np.take(order, range(step * spec.micro_batch_size, (step + 1) * spec.micro_batch_size), mode="wrap")
        batch = collate([(int(row),) for row in picked], rows, 0)
        rate = learning_rate(spec, step, num_steps)
        result = train_step(trainee, [Share(0, step, rate, [batch], spec.seed)])[0]
        assert isinstance(result, StepResult)
        steps_s.append(perf_counter() - start)
    return steps_s


if __name__ == "__main__":
    play(main)
