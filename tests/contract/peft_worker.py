"""What each of two workers does for types of PEFT's: each type under each strategy, a few steps.

Enters: a folder with the base and the rows, by argument; rank and world size by environment. Leaves there: one JSON
file for each case with what was seen, or the error. Started by `strategy_group`.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raylora.spec.run import RunSpec
from tests.contract.strategy_specs import run_spec
from tests.contract.strategy_worker import base_digest, digest, keep
from tests.reference.peft_types import TYPES, as_much_noise_for_every_token, block_of
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps

UNDER = ("ddp", "fsdp", "zero1", "zero2")
SOME = ("LOHA", "OFT", "VBLORA")
"""Tried twice in their slot."""
CASES = [(strategy, kind) for strategy in UNDER for kind in TYPES]
NOISY = "PVERA"
"""Draws noise for what comes in, and so other noise on each worker."""
STEPS = range(2)


def spec_of(folder: Path, strategy: str, kind: str) -> RunSpec:
    return run_spec(folder, strategy, "nf4", lora_r=16, lora_alpha=32, peft=block_of(kind))


def first_steps(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Losses, whether all ranks come to one adapter, and the base without it; of some types also the same once more."""
    rows, _ = open_rows(spec, folder / "cache")
    trainee = build_tiny(spec)
    losses = [result.loss for result in run_steps(trainee, rows, STEPS)]
    ranks = trainee.ranks
    adapters = set(ranks.gather(digest(trainee.export(0).tensors.items())))
    again = losses
    trainee.release(0)
    if spec.peft is not None and spec.peft["peft_type"] in SOME:
        trainee.admit(0, spec)
        again = [result.loss for result in run_steps(trainee, rows, STEPS)]
        trainee.release(0)
    return {"losses": losses, "again": again, "num_adapters": len(adapters), "base": base_digest(trainee)}


def see_alone(folder: Path) -> None:
    """The single process that the strategies are held against."""
    with as_much_noise_for_every_token():
        for kind in TYPES:
            keep(folder, f"alone-{kind}", partial(first_steps, spec_of(folder, "ddp", kind), folder))
    noisy = spec_of(folder, "ddp", NOISY)
    recomputed = noisy.model_copy(update={"gradient_checkpointing": True})
    keep(folder, "alone-noise", partial(first_steps, noisy, folder))
    keep(folder, "alone-noise-recomputed", partial(first_steps, recomputed, folder))


def see_together(folder: Path) -> None:
    """Every case on the ranks of this group."""
    with as_much_noise_for_every_token():
        for strategy, kind in CASES:
            keep(folder, f"{strategy}-{kind}", partial(first_steps, spec_of(folder, strategy, kind), folder))
    for strategy in UNDER:
        keep(folder, f"{strategy}-noise", partial(first_steps, spec_of(folder, strategy, NOISY), folder))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    see_together(Path(sys.argv[1]))
    dist.destroy_process_group()
