"""`python -m benchmarks.gpu.exact`: whether a pack's losses on CUDA are those of each adapter alone, step by step."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu.device import forget
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import ONE_B, llama_config, random_trainee
from benchmarks.gpu.setting import Script, Setting
from benchmarks.tables import table
from raylora.spec.run import RunSpec
from raylora.train.trainee import Trainee

RANKS = (16, 16, 16, 16, 8, 8, 32, 4)
"""Of the slots: twins, which share calls, and others."""
ROWS, TOKENS = 1, 128
TOLERANCES = {"bfloat16": 5e-2, "float32": 1e-3}
"""How far losses may come apart over all steps."""

# cuBLAS reads it when its first product runs.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def measure(setting: Setting) -> dict[str, Any]:
    """Both dtypes, each with torch's choice of kernels and with deterministic ones."""
    cases = {}
    for dtype in TOLERANCES:
        for deterministic in (False, True):
            print(f"{dtype}, deterministic: {deterministic}", file=sys.stderr, flush=True)
            with _kernels(deterministic):
                cases[f"{dtype}, {'deterministic' if deterministic else 'as it comes'}"] = _compare(setting, dtype)
            forget(setting.device)
    return {"slots": len(RANKS), "cases": cases}


def render(results: Mapping[str, Any]) -> str:
    """A line for each case."""
    head = (
        "kernels",
        "pack and alone apart by",
        "allowed",
        "first step apart by",
        "same bits",
        "pack twice, same bits",
    )
    rows = [
        (
            name,
            f"{case['apart']:.1e}",
            f"{case['allowed']:.0e}",
            f"{case['first_apart']:.1e}",
            f"{case['same_bits']:.0%}",
            f"{case['again_same_bits']:.0%}",
        )
        for name, case in results["cases"].items()
    ]
    return (
        f"{results['slots']} slots, ranks {', '.join(map(str, RANKS))}, {ROWS} x {TOKENS} tokens each; losses of every "
        "step, the largest difference of any slot, and the part of all losses that are the same to the bit.\n\n"
        f"{table(head, rows)}"
    )


SCRIPT = Script(
    "exact",
    "A pack's losses and those of each alone",
    "over 50 steps the losses of 8 slots are those of each alone, to the tolerance of the dtype",
    measure,
    render,
    *ONE_B,
    turns=50,
)


@contextmanager
def _kernels(deterministic: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _compare(setting: Setting, dtype: str) -> dict[str, Any]:
    specs = [run_spec(setting, ROWS, TOKENS, dtype=dtype, lora_r=rank, seed=slot) for slot, rank in enumerate(RANKS)]
    trainee = random_trainee(llama_config(setting.hidden, setting.layers), specs[0], setting.device)
    pack, again = (_train(trainee, dict(enumerate(specs)), setting.turns) for _ in range(2))
    alone_KS = [_train(trainee, {slot: spec}, setting.turns) for slot, spec in enumerate(specs)]
    alone = torch.cat(alone_KS, dim=1)
    apart = (pack - alone).abs()
    return {
        "allowed": TOLERANCES[dtype],
        "apart": float(apart.max()),
        "first_apart": float(apart[0].max()),
        "same_bits": float((pack == alone).double().mean()),
        "again_same_bits": float((pack == again).double().mean()),
        "losses": pack.tolist(),
    }


def _train(trainee: Trainee, specs: Mapping[int, RunSpec], num_steps: int) -> torch.Tensor:
    """Losses by step and slot of new adapters in these slots."""
    for slot, spec in specs.items():
        trainee.admit(slot, spec)
    rows, told = random_rows(TOKENS), []
    for step in range(num_steps):
        shares = [share for share in shares_of(rows, len(RANKS), step, ROWS) if share.slot in specs]
        told.append(losses(trainee, shares))
    for slot in specs:
        trainee.release(slot)
    return torch.tensor(told, dtype=torch.float64)


if __name__ == "__main__":
    SCRIPT.run()
