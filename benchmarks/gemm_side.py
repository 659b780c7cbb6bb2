"""The rate of the machine's own float32 matrix products, once a turn.

Started by `sides.py` with the path of a workload.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.player import Player, play
from benchmarks.products import rates
from benchmarks.workload import Workload


def main(player: Player) -> None:
    """Measure both kernels once a turn."""
    work = Workload.read(sys.argv[1])
    torch.set_num_threads(work.num_threads)
    num_tokens = work.micro_batch_rows * work.options["row_tokens"]
    player.tell()
    while player.wait():
        player.tell(flops_per_s=rates(Path(work.base), num_tokens))


if __name__ == "__main__":
    play(main)
