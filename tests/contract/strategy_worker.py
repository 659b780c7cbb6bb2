"""What each of two workers does for the strategies' contract: every strategy and quantization in one process group.

Enters: a folder with the base, the rows and a wider base, by argument; rank and world size by environment. Leaves
there: one JSON file for each case with what was seen, or the error. Started by `strategy_group`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest, save_checkpoint
from raylora.train import memory
from raylora.train.evaluate import evaluate
from raylora.train.integrity import check_unchanged, checksum
from raylora.train.member import Member
from raylora.train.sample import answer
from raylora.train.snapshot import Progress, restore, take
from raylora.train.trainee import Trainee
from raylora.train.turn import step_all
from tests.contract.strategy_digest import base_digest, digest
from tests.contract.strategy_memory import gathered_memory, load_memory
from tests.contract.strategy_specs import (
    HEADS,
    PAIRWISE,
    QUANTIZATIONS,
    STRATEGIES,
    head_of,
    pairs_spec,
    rated_spec,
    run_spec,
    weighted_spec,
)
from tests.unit.train.pack_run import Silent, losses_of
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps

SHARDING = ("fsdp", "zero3")
FEW = ("ddp", *SHARDING)
"""Under these FP4 is tried: ZeRO-1 and ZeRO-2 leave the base whole, as ddp does."""
CASES = [
    (strategy, quantization)
    for strategy in STRATEGIES
    for quantization in QUANTIZATIONS
    if quantization != "fp4" or strategy in FEW
]
PEFT_UNDER = [name for name in STRATEGIES if name != "zero3"]
LOADED = [
    *((strategy, quantization) for strategy in SHARDING for quantization in ("none", "nf4", "int8")),
    *(("ddp", "nf4"), ("ddp", "int8"), ("zero2", "nf4")),
]
HALF, SECOND_HALF = range(5), range(5, 10)
MOVES = [
    *((name, name) for name in STRATEGIES),
    *(("ddp", "zero1"), ("zero1", "fsdp"), ("fsdp", "zero2"), ("zero2", "zero3"), ("zero3", "ddp"), ("zero2", "zero1")),
    *(("fsdp", "ddp"), ("ddp", "zero3")),
    *(("alone", name) for name in STRATEGIES),
]
"""Of runs that go on with two workers."""
BACK_ALONE = [(name, "alone") for name in STRATEGIES]
"""Of two workers' runs that go on with one."""
DROPOUT = {"lora_dropout": 0.2}
KINDS: dict[str, dict[str, object]] = {
    "dora-loraplus": {"use_dora": True, "loraplus_lr_ratio": 4},
    "pissa": {"init_lora_weights": "pissa"},
    "loftq": {"init_lora_weights": "loftq"},
    "vera": {"adapter": "vera", "lora_r": 80, "d_initial": 0.3},
}
"""A magnitude and two learning rates; starts that read the whole weight of a shard; matrices that no rank trains."""
ONE_RATE: dict[str, dict[str, object]] = {
    "dora-rslora": {"use_dora": True, "use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "pissa_niter": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    **{kind: fields for kind, fields in KINDS.items() if kind != "dora-loraplus"},
}
"""Kinds under the stages of ZeRO that step all of an adapter at one rate; packs have them under the others."""
KINDS_UNDER = {name: KINDS if name in FEW else ONE_RATE for name in STRATEGIES}
KIND_CASES = [(strategy, kind) for strategy, kinds in KINDS_UNDER.items() for kind in kinds]
IN_PEFT: dict[str, dict[str, object]] = {
    "dora-rslora": ONE_RATE["dora-rslora"],
    "gaussian": ONE_RATE["gaussian"],
    "loraplus": {"loraplus_lr_ratio": 4},
}
"""Kinds of LoRA in PEFT's bank."""
PEFT_CASES = [(strategy, kind) for strategy in PEFT_UNDER for kind in IN_PEFT if strategy in FEW or kind != "loraplus"]
EVA = {"init_lora_weights": "eva"}


def train(spec: RunSpec, folder: Path, checkpoints: Path) -> dict[str, Any]:
    """Ten steps, and all that can be seen of them."""
    rows, validation = open_rows(spec, folder / "cache")
    assert validation is not None
    trainee = build_tiny(spec)
    ranks, bits = trainee.ranks, checksum(trainee)
    seen: dict[str, Any] = {"base_before": base_digest(trainee), "held_bytes": [ranks.gather(trainee.held_base_bytes)]}
    seen["eval_before"] = evaluate(trainee, {0: validation})[0].loss
    results = run_steps(trainee, rows, HALF)
    save(trainee, checkpoints)
    results += run_steps(trainee, rows, SECOND_HALF)
    seen["held_bytes"].append(ranks.gather(trainee.held_base_bytes))
    seen["eval_after"] = evaluate(trainee, {0: validation})[0].loss
    seen["held_bytes"].append(ranks.gather(trainee.held_base_bytes))
    check_unchanged(trainee, bits)
    seen["base_after"] = base_digest(trainee)
    seen |= {name: [getattr(one, name) for one in results] for name in ("loss", "grad_norm", "num_tokens")}
    adapter = trainee.bank.export(0).tensors
    seen["adapter"] = {name: tensor.flatten().tolist() for name, tensor in adapter.items()}
    seen["adapter_digests"] = ranks.gather(digest(adapter.items()))
    seen["answers"] = ranks.gather(answer(trainee, 0, load_tokenizer(folder / "base"), ["the model", "0 1 2"], 4))
    return seen


def go_on(spec: RunSpec, folder: Path, checkpoints: Path) -> dict[str, Any]:
    """The last five steps from a checkpoint of the first five."""
    rows, _ = open_rows(spec, folder / "cache")
    trainee = build_tiny(spec)
    checkpoint = load_latest(open_store(str(checkpoints)))
    assert checkpoint is not None
    restore(trainee, 0, checkpoint, {})
    losses = [result.loss for result in run_steps(trainee, rows, SECOND_HALF)]
    return {"loss": losses, "adapter_digest": digest(trainee.bank.export(0).tensors.items())}


def measures(spec: RunSpec, folder: Path, name: str = "token_accuracy") -> dict[str, list[float]]:
    """Losses of steps and of evaluations before and after, with a metric of that name."""
    rows, validation = open_rows(spec, folder / "cache")
    assert validation is not None
    trainee = build_tiny(spec)
    before = evaluate(trainee, {0: validation})[0]
    steps = run_steps(trainee, rows, range(7))
    told = [before, *steps, evaluate(trainee, {0: validation})[0]]
    return {"loss": [each.loss for each in told], name: [each.metrics[name] for each in told]}


def first_losses(spec: RunSpec, folder: Path, num_steps: int = 3) -> list[float]:
    rows, _ = open_rows(spec, folder / "cache")
    return [result.loss for result in run_steps(build_tiny(spec), rows, range(num_steps))]


def first_losses_from_rows(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Of a run whose adapter looks at rows before its first step; and whether all ranks hold the same adapter."""
    rows, _ = open_rows(spec, folder / "cache")
    trainee = build_tiny(spec)
    member = Member(trainee, 0, spec, rows, None, Silent(), {})
    for _ in range(4):
        assert not step_all(trainee, [member])
    digests = trainee.ranks.gather(digest(trainee.bank.export(0).tensors.items()))
    return {"losses": losses_of(member, ["train_loss"]), "num_adapters": len(set(digests))}


def first_losses_twice(spec: RunSpec, folder: Path) -> list[list[float]]:
    """Of a run, and of the same one once more in the slot that it has left."""
    rows, _ = open_rows(spec, folder / "cache")
    trainee = build_tiny(spec)
    first = [result.loss for result in run_steps(trainee, rows, range(3))]
    trainee.release(0)
    trainee.admit(0, spec)
    return [first, [result.loss for result in run_steps(trainee, rows, range(3))]]


def step_on_an_infinite_gradient(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """What the stepper returns, and whether the adapter stayed as it was."""
    rows, _ = open_rows(spec, folder / "cache")
    trainee = build_tiny(spec)
    run_steps(trainee, rows, range(2))
    before = digest(trainee.bank.export(0).tensors.items())
    trainee.steppers[0].backward(sum(p.sum() for p in trainee.bank.parameters(0).values()) * float("inf"))
    norm = trainee.steppers[0].step(1.0)
    return {"norm": repr(norm), "is_unchanged": digest(trainee.bank.export(0).tensors.items()) == before}


def peft_spec(folder: Path, strategy: str, kind: str) -> RunSpec:
    return run_spec(folder, strategy, "nf4", adapter_bank="peft", **IN_PEFT[kind])


def save(trainee: Trainee, checkpoints: Path) -> None:
    checkpoint = take(trainee, 0, Progress(step=len(HALF)), {})
    if trainee.ranks.rank == 0:
        save_checkpoint(open_store(str(checkpoints)), checkpoint, keep=1)


def keep(folder: Path, name: str, see: Callable[[], Any]) -> None:
    """Write down what was seen, or how it failed."""
    try:
        seen = see()
    except Exception:
        seen = {"error": traceback.format_exc()}
    if not dist.is_initialized() or dist.get_rank() == 0 or "error" in seen:
        (folder / f"{name}.json").write_text(json.dumps(seen))


def see_alone(folder: Path) -> None:
    """The single process that all strategies are held against."""
    for quantization in QUANTIZATIONS:
        spec = run_spec(folder, "ddp", quantization)
        name = f"alone-{quantization}"
        keep(folder, name, partial(train, spec, folder, folder / "checkpoints" / name))
    keep(folder, "alone-dropout", partial(first_losses, run_spec(folder, "ddp", "nf4", **DROPOUT), folder))
    for rl in PAIRWISE:
        keep(folder, f"alone-{rl}", partial(first_losses, pairs_spec(folder, "ddp", rl), folder))
    keep(folder, "alone-rated", partial(measures, rated_spec(folder, "ddp"), folder, "kl"))
    keep(folder, "alone-weighted", partial(measures, weighted_spec(folder, "ddp"), folder))
    keep(folder, "alone-eva", partial(first_losses_from_rows, run_spec(folder, "ddp", "nf4", **EVA), folder))
    keep(folder, "alone-peft", partial(first_losses, run_spec(folder, "ddp", "nf4", adapter_bank="peft"), folder))
    for kind, fields in (KINDS | ONE_RATE).items():
        keep(folder, f"alone-{kind}", partial(first_losses, run_spec(folder, "ddp", "nf4", **fields), folder))
    for kind in IN_PEFT:
        keep(folder, f"alone-peft-{kind}", partial(first_losses, peft_spec(folder, "ddp", kind), folder))
    for head in HEADS:
        keep(folder, f"alone-{head}", partial(first_losses, head_of(folder, "ddp", head), folder, 2))


def go_on_alone(folder: Path) -> None:
    """The single process goes on with what the group began."""
    for start, end in BACK_ALONE:
        at = folder / "checkpoints" / f"{start}-nf4"
        keep(folder, f"{start}-to-{end}", partial(go_on, run_spec(folder, "ddp", "nf4"), folder, at))


def see_together(folder: Path) -> None:
    """Every strategy on the ranks of this group."""
    for strategy, quantization in CASES:
        name = f"{strategy}-{quantization}"
        spec = run_spec(folder, strategy, quantization)
        keep(folder, name, partial(train, spec, folder, folder / "checkpoints" / name))
    for strategy in STRATEGIES:
        spec_of = partial(run_spec, folder, strategy)
        recomputed = spec_of("nf4", **DROPOUT, gradient_checkpointing=True)
        keep(folder, f"{strategy}-recomputed", partial(first_losses, recomputed, folder))
        for rl in PAIRWISE:
            keep(folder, f"{strategy}-{rl}", partial(first_losses, pairs_spec(folder, strategy, rl), folder))
        for head in HEADS:
            keep(folder, f"{strategy}-{head}", partial(first_losses, head_of(folder, strategy, head), folder, 2))
        keep(folder, f"{strategy}-rated", partial(measures, rated_spec(folder, strategy), folder, "kl"))
        keep(folder, f"{strategy}-weighted", partial(measures, weighted_spec(folder, strategy), folder))
        keep(folder, f"{strategy}-eva", partial(first_losses_from_rows, spec_of("nf4", **EVA), folder))
        keep(folder, f"{strategy}-infinite", partial(step_on_an_infinite_gradient, spec_of("nf4"), folder))
        if strategy in PEFT_UNDER:
            keep(folder, f"{strategy}-peft", partial(first_losses_twice, spec_of("nf4", adapter_bank="peft"), folder))
    keep(folder, "ddp-dropout", partial(first_losses, run_spec(folder, "ddp", "nf4", **DROPOUT), folder))
    for strategy, kind in KIND_CASES:
        spec = run_spec(folder, strategy, "nf4", **KINDS_UNDER[strategy][kind])
        keep(folder, f"{strategy}-{kind}", partial(first_losses, spec, folder))
    for strategy, kind in PEFT_CASES:
        keep(folder, f"{strategy}-peft-{kind}", partial(first_losses, peft_spec(folder, strategy, kind), folder))
    for strategy in FEW:
        spec, at = (
            run_spec(folder, strategy, "nf4", optimizer="adamw_bnb_8bit"),
            folder / "checkpoints" / f"{strategy}-8bit",
        )
        keep(folder, f"{strategy}-8bit", partial(train, spec, folder, at))
        keep(folder, f"{strategy}-8bit-again", partial(go_on, spec, folder, at))
    for start, end in MOVES:
        at = folder / "checkpoints" / f"{start}-nf4"
        keep(folder, f"{start}-to-{end}", partial(go_on, run_spec(folder, end, "nf4"), folder, at))
    wide: dict[str, object] = {
        "base_model": str(folder / "wide"),
        "lora_target_modules": ["q_proj"],
        "lora_r": 1,
        "gradient_accumulation_steps": 1,
        "val_set_size": 4,
    }
    for strategy, quantization in LOADED:
        spec = run_spec(folder, strategy, quantization, **wide)
        keep(folder, f"{strategy}-{quantization}-memory", partial(load_memory, spec))
        if strategy in SHARDING:
            keep(folder, f"{strategy}-{quantization}-gathered", partial(gathered_memory, spec, folder))


if __name__ == "__main__":
    memory.INTERVAL_S = 0.002
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    see_together(Path(sys.argv[1]))
    dist.destroy_process_group()
