"""What each of two workers does for runs from sources to targets: every strategy, in one process group.

Enters: a folder with bases and rows, by argument; rank and world size by environment. Leaves there: one JSON file for
each case with what was seen, or the error. Started by `strategy_group`.
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
from raylora.train.evaluate import evaluate
from tests.contract.strategy_digest import digest
from tests.contract.strategy_specs import STRATEGIES
from tests.contract.strategy_worker import keep
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps
from tests.unit.train.tiny_seq2seq import seq2seq_spec

UNDER = list(STRATEGIES)
WAYS: dict[str, dict[str, object]] = {
    "flan-t5-nf4": {"load_in_4bit": True},
    "mt5-nf4": {"load_in_4bit": True},
    "t5-int8-dropout": {"load_in_8bit": True, "lora_dropout": 0.2, "gradient_checkpointing": True},
}
FAMILY = {"flan-t5-nf4": "flan-t5", "mt5-nf4": "mt5", "t5-int8-dropout": "t5"}
SHARDING = ("fsdp", "zero3")


def run_spec(folder: Path, strategy: str, way: str) -> RunSpec:
    """Two micro-batches for each worker and step."""
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    settings = {"gradient_accumulation_steps": 2, "val_set_size": 9, "max_grad_norm": 1.4, "distributed": place}
    return seq2seq_spec(folder, FAMILY[way], **settings, **WAYS[way])


def train(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Ten steps, and all that can be seen of them."""
    rows, validation = open_rows(spec, folder / "cache")
    assert validation is not None
    trainee = build_tiny(spec)
    seen: dict[str, Any] = {"eval_before": evaluate(trainee, {0: validation})[0].loss}
    results = run_steps(trainee, rows, range(10))
    seen["eval_after"] = evaluate(trainee, {0: validation})[0].loss
    seen |= {name: [getattr(one, name) for one in results] for name in ("loss", "grad_norm", "num_tokens")}
    seen["held_bytes"] = trainee.ranks.gather(trainee.held_base_bytes)
    seen["adapters"] = trainee.ranks.gather(digest(trainee.bank.export(0).tensors.items()))
    return seen


def see_alone(folder: Path) -> None:
    """The single process that all strategies are held against."""
    for way in WAYS:
        keep(folder, f"alone-{way}", partial(train, run_spec(folder, "ddp", way), folder))


def see_together(folder: Path) -> None:
    """Every strategy on the ranks of this group."""
    for strategy in UNDER:
        for way in WAYS:
            keep(folder, f"{strategy}-{way}", partial(train, run_spec(folder, strategy, way), folder))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    see_together(Path(sys.argv[1]))
    dist.destroy_process_group()
