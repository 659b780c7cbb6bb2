"""What each of two workers does where the base itself trains: every strategy that takes it, in one process group.

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

from raylora.adapters.publish_model import publish_model
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.train.evaluate import evaluate
from raylora.train.sample import answer
from raylora.train.snapshot import restore
from tests.contract.strategy_specs import STRATEGIES
from tests.contract.strategy_worker import HALF, SECOND_HALF, base_digest, keep, save
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps, tiny_spec

RATE = 2e-3
NORM = 3.5
"""Between the gradient norms of the run: some steps are clipped and some are not."""
ODD = "model.layers.2.mlp.up_proj.weight"
UNDER = ["ddp", "fsdp", "zero1", "zero2"]
MOVES = [
    *((name, name) for name in UNDER),
    *(("ddp", "fsdp"), ("fsdp", "zero2"), ("zero1", "ddp"), ("alone", "fsdp"), ("alone", "zero1")),
]
BACK_ALONE = [(name, "alone") for name in UNDER]
WAYS: dict[str, dict[str, object]] = {
    "full": {"adapter": "full"},
    "galore": {"adapter": "full", "optimizer": "galore_adamw", "galore_rank": 8},
}


def run_spec(folder: Path, strategy: str, **fields: object) -> RunSpec:
    """Two micro-batches for each worker and step; weights that two ranks cannot halve."""
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    settings = {**WAYS["full"], "gradient_accumulation_steps": 2, "max_grad_norm": NORM, "val_set_size": 9}
    return tiny_spec(folder / "base", folder / "rows.jsonl", **{**settings, "distributed": place, **fields})


def train(spec: RunSpec, folder: Path, name: str) -> dict[str, Any]:
    """Ten steps, what can be seen of them, and the model that is published."""
    rows, validation = open_rows(spec, folder / "cache")
    assert validation is not None
    trainee = build_tiny(spec)
    trainee.train_mode(True)
    ranks = trainee.ranks
    seen: dict[str, Any] = {"held_bytes": ranks.gather(trainee.held_base_bytes)}
    seen["eval_before"] = evaluate(trainee, {0: validation})[0].loss
    results = run_steps(trainee, rows, HALF, RATE)
    save(trainee, folder / "checkpoints" / name)
    results += run_steps(trainee, rows, SECOND_HALF, RATE)
    seen["eval_after"] = evaluate(trainee, {0: validation})[0].loss
    seen |= {of: [getattr(one, of) for one in results] for of in ("loss", "grad_norm", "num_tokens")}
    seen["digests"] = ranks.gather(base_digest(trainee))
    seen["answers"] = ranks.gather(answer(trainee, 0, load_tokenizer(folder / "base"), ["the model"], 8))
    seen["model"] = publish_model(open_store(str(folder / "published" / name)), trainee, folder / "base", {})
    return seen


def go_on(spec: RunSpec, folder: Path, name: str) -> dict[str, Any]:
    """The last five steps from a checkpoint of the first five."""
    rows, _ = open_rows(spec, folder / "cache")
    trainee = build_tiny(spec)
    checkpoint = load_latest(open_store(str(folder / "checkpoints" / name)))
    assert checkpoint is not None
    restore(trainee, 0, checkpoint, {})
    losses = [result.loss for result in run_steps(trainee, rows, SECOND_HALF, RATE)]
    return {"loss": losses, "digest": base_digest(trainee)}


def not_finite(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """What a step does with a gradient that is not finite; and a run after another in the same place."""
    rows, _ = open_rows(spec, folder / "cache")
    trainee = build_tiny(spec)
    first = [result.loss for result in run_steps(trainee, rows, range(2), RATE)]
    before = base_digest(trainee)
    outputs = trainee.model(input_ids=torch.zeros(1, 4, dtype=torch.int64)).logits
    trainee.steppers[0].backward(outputs.sum() * float("inf"))
    norm = trainee.steppers[0].step(1.0)
    return {"norm": repr(norm), "is_unchanged": base_digest(trainee) == before, "first": first}


def again(spec: RunSpec, folder: Path) -> list[list[float]]:
    """Losses of a run, and of the same one once more where it was."""
    rows, _ = open_rows(spec, folder / "cache")
    trainee = build_tiny(spec)
    first = [result.loss for result in run_steps(trainee, rows, range(3), RATE)]
    trainee.release(0)
    trainee.admit(0, spec)
    return [first, [result.loss for result in run_steps(trainee, rows, range(3), RATE)]]


def filled(spec: RunSpec) -> list[bool]:
    """Whether parameters of a frozen base come back as they were put in; the last one has a side of odd length."""
    trainee = build_tiny(spec)
    named = dict(trainee.model.named_parameters())
    found = []
    for name in (
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.2.mlp.up_proj.weight",
    ):
        whole = 2 * trainee.strategy.full(named[name]).clone()
        trainee.strategy.fill(named[name], whole)
        found.append(torch.equal(trainee.strategy.full(named[name]), whole) and bool(whole.any()))
    return found


def see_alone(folder: Path) -> None:
    """The single process that all strategies are held against."""
    keep(folder, "alone", partial(train, run_spec(folder, "ddp"), folder, "alone"))
    keep(folder, "alone-galore", partial(train, run_spec(folder, "ddp", **WAYS["galore"]), folder, "alone-galore"))


def go_on_alone(folder: Path) -> None:
    """The single process goes on with what the group began."""
    for begun, _ in BACK_ALONE:
        keep(folder, f"{begun}-to-alone", partial(go_on, run_spec(folder, "ddp"), folder, begun))


def see_together(folder: Path) -> None:
    """Every strategy on the ranks of this group."""
    for strategy in UNDER:
        spec = run_spec(folder, strategy)
        keep(folder, strategy, partial(train, spec, folder, strategy))
        keep(folder, f"{strategy}-infinite", partial(not_finite, spec, folder))
        keep(folder, f"{strategy}-again", partial(again, spec, folder))
    for strategy in STRATEGIES:
        keep(folder, f"{strategy}-filled", partial(filled, run_spec(folder, strategy, adapter="lora")))
    recomputed = run_spec(folder, "fsdp", gradient_checkpointing=True)
    keep(folder, "fsdp-recomputed", partial(train, recomputed, folder, "fsdp-recomputed"))
    keep(folder, "ddp-galore", partial(train, run_spec(folder, "ddp", **WAYS["galore"]), folder, "ddp-galore"))
    for begun, end in MOVES:
        keep(folder, f"{begun}-to-{end}", partial(go_on, run_spec(folder, end), folder, begun))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    see_together(Path(sys.argv[1]))
    dist.destroy_process_group()
