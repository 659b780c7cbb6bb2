"""raylora's side of a comparison: its training core alone, one process a rank, no Ray.

Started by `sides.py` with the path of a workload.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.flops import step_flops
from benchmarks.player import Player, play
from benchmarks.workload import LEARNING_RATE, LORA_ALPHA, LORA_R, MAX_GRAD_NORM, Workload
from raylora.data.binning import fill_bins
from raylora.data.collate import Batch, collate
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.spec.run import RunSpec
from raylora.train.build import build
from raylora.train.memory import PeakMemory
from raylora.train.step import Share, StepResult, train_step

CPU = torch.device("cpu")


def main(player: Player) -> None:
    """Build, then step once a turn."""
    work = Workload.read(sys.argv[1])
    torch.set_num_threads(work.num_threads)
    rank = int(os.environ["RANK"])
    if work.num_ranks > 1:
        dist.init_process_group("gloo")
    with PeakMemory(CPU) as memory:
        trainee = build(run_spec(work), Path(work.base), ("base", None), CPU)
    trainee.train_mode(True)
    rows = TokenisedRows.of((), [work.table()])
    player.tell(
        ran=trainee.strategy.name,
        base_bytes=trainee.held_base_bytes,
        start_bytes=memory.start_bytes,
        load_peak_bytes=memory.peak_bytes,
        trainable_parameters=trainee.num_trainable(0),
    )
    step = 0
    while player.wait():
        with _watching(work) as memory:
            share = Share(0, step, LEARNING_RATE, step_batches(work, rows, step, rank))
            result = train_step(trainee, [share])[0]
            clock = player.stop()
        assert isinstance(result, StepResult)
        player.tell(
            **clock,
            loss=result.loss,
            num_tokens=sum(batch.num_tokens for batch in share.batches),
            flops=step_flops(trainee, [share]),
            peak_bytes=memory.peak_bytes if memory else None,
        )
        step += 1


def run_spec(work: Workload) -> RunSpec:
    """The workload in raylora's words."""
    is_zero = work.strategy.startswith("zero")
    placed: dict[str, object] = {"strategy": "deepspeed" if is_zero else work.strategy, "num_workers": work.num_ranks}
    if is_zero:
        placed["zero_stage"] = int(work.strategy[-1])
    return RunSpec.model_validate(
        {
            "base_model": work.base,
            "datasets": [{"path": work.rows}],
            "load_in_4bit": work.quantized,
            "dtype": work.dtype,
            "lora_r": LORA_R,
            "lora_alpha": LORA_ALPHA,
            "micro_batch_size": work.micro_batch_rows,
            "gradient_accumulation_steps": work.accumulation_steps,
            "sequence_len": work.bin_tokens or 1024,
            "sample_packing": work.bin_tokens > 0,
            "max_grad_norm": MAX_GRAD_NORM,
            "distributed": placed,
            **work.options,
        }
    )


def step_batches(work: Workload, rows: TokenisedRows, step: int, rank: int) -> list[Batch]:
    """The rank's micro-batches of a step; binned, the same rows lie in fewer lines."""
    parts = list(work.micro_batches(len(rows), step, rank))
    if not work.bin_tokens:
        return [collate([(row,) for row in part], rows, 0) for part in parts]
    bins = fill_bins(np.concatenate([np.array(part) for part in parts]), rows.lengths, work.bin_tokens)
    lines = [bins[index] for index in range(len(bins))]
    starts = range(0, len(lines), work.micro_batch_rows)
    return [collate(lines[start : start + work.micro_batch_rows], rows, 0) for start in starts]


@contextmanager
def _watching(work: Workload) -> Iterator[PeakMemory | None]:
    if not work.watches_memory:
        yield None
        return
    with PeakMemory(CPU) as memory:
        yield memory


if __name__ == "__main__":
    play(main)
