"""`python -m benchmarks.gpu.exact`: whether a pack's losses on CUDA are those of each adapter alone, step by step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch

from benchmarks.gpu.attempt import attempt, told, why_not
from benchmarks.gpu.claim import Claim, held
from benchmarks.gpu.device import wait
from benchmarks.gpu.fused_product import chosen_by_rows
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import ONE_B, llama_config, random_trainee
from benchmarks.gpu.script import Script
from benchmarks.gpu.setting import Setting
from benchmarks.tables import table
from raylora.spec.run import RunSpec
from raylora.train.trainee import Trainee

RANKS = (16, 16, 16, 16, 8, 8, 32, 4)
"""Of the slots: twins, which share calls, and others."""
ROWS, TOKENS, FEW_TOKENS = 1, 128, 4
"""Of a slot. So few that bitsandbytes multiplies packed weights alone, and those of a pack of 8 unpacked."""
TOLERANCES = {"bfloat16": 5e-2, "float32": 1e-3}
"""How far losses may come apart over all steps."""

# cuBLAS reads it when its first product runs; without it, it keeps no promise of equal bits.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@dataclass(frozen=True)
class Case:
    """How both sides compute.

    Args:
        dtype: In which.
        deterministic: Only kernels that give the same bits again.
        tokens: Of a slot.
        by_rows: bitsandbytes chooses the kernel by the number of rows, where ours always unpacks.
    """

    dtype: str
    deterministic: bool
    tokens: int
    by_rows: bool = False

    @property
    def name(self) -> str:
        """Short words."""
        kernels = "deterministic" if self.deterministic else "as it comes"
        unpacked = "kernel chosen by rows" if self.by_rows else "always unpacked"
        return f"{self.dtype}, {self.tokens} tokens, {kernels}, {unpacked}"


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """Both dtypes, each with torch's kernels and with deterministic ones; few tokens, unpacked and by rows."""
    cases = [Case(dtype, deterministic, TOKENS) for dtype in TOLERANCES for deterministic in (False, True)]
    if setting.bits == 4:
        cases += [Case("bfloat16", True, FEW_TOKENS, by_rows) for by_rows in (False, True)]
    results: dict[str, Any] = {"slots": len(RANKS), "steps": setting.turns, "cases": {}}
    for case in cases:
        results["cases"][case.name] = attempt(setting, case.name, partial(_measured, setting, case))
        yield results


def render(results: Mapping[str, Any]) -> str:
    """A line for each case."""
    head = (
        *("computed", "pack and alone apart by", "allowed", "first step apart by", "same bits"),
        *("pack twice, same bits", "s, all alone", "s, pack"),
    )
    rows = [
        (
            name,
            told(case, "apart", "{:.1e}".format) or why_not(case),
            told(case, "allowed", "{:.0e}".format),
            told(case, "first_apart", "{:.1e}".format),
            told(case, "same_bits", "{:.0%}".format),
            told(case, "again_same_bits", "{:.0%}".format),
            told(case, "alone_s", "{:.2f}".format),
            told(case, "pack_s", "{:.2f}".format),
        )
        for name, case in results["cases"].items()
    ]
    return (
        f"{results['slots']} slots, ranks {', '.join(map(str, RANKS))}, {ROWS} row each, {results['steps']} steps; "
        "losses of every step, the largest difference of any slot, the part of all losses that are the same to the "
        f"bit, and the seconds of all steps.\n\n{table(head, rows)}"
    )


def _of(*names: str) -> Callable[[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Cases that were measured and whose names have all of these words."""

    def cases(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found = [case for name, case in results["cases"].items() if all(word in name for word in names)]
        return [case for case in found if "apart" in case]

    return cases


def _close(*names: str) -> Callable[[Mapping[str, Any]], str | None]:
    def found(results: Mapping[str, Any]) -> str | None:
        cases = _of(*names)(results)
        if not cases:
            return None
        return held(all(case["apart"] <= case["allowed"] for case in cases), f"{max(c['apart'] for c in cases):.1e}")

    return found


def _bits(*names: str) -> Callable[[Mapping[str, Any]], str | None]:
    def found(results: Mapping[str, Any]) -> str | None:
        cases = _of(*names)(results)
        if not cases:
            return None
        return f"{min(c['same_bits'] for c in cases):.0%} of losses; a pack twice: " + (
            f"{min(c['again_same_bits'] for c in cases):.0%}"
        )

    return found


def _switch(results: Mapping[str, Any]) -> str | None:
    ours, chosen = (_of(f"{FEW_TOKENS} tokens", words)(results) for words in ("always unpacked", "chosen by rows"))
    if not ours or not chosen:
        return None
    (our, other) = ours[0], chosen[0]
    return (
        f"apart by {our['apart']:.1e}, chosen by rows {other['apart']:.1e}; alone "
        f"{our['alone_s'] / other['alone_s']:.2f} times as long, a pack {our['pack_s'] / other['pack_s']:.2f}"
    )


SCRIPT = Script(
    "exact",
    "A pack's losses and those of each alone",
    "losses of a pack of 8 against those of each slot alone, over 50 steps",
    (
        Claim("in bfloat16 a pack's losses are those of each alone to 0.05", _close("bfloat16", "always")),
        Claim("in float32 to 0.001", _close("float32", "always")),
        Claim("with deterministic kernels in bfloat16, bit by bit", _bits("bfloat16", f"{TOKENS} tokens, determ")),
        Claim("with deterministic kernels in float32, bit by bit", _bits("float32", f"{TOKENS} tokens, determ")),
        Claim(f"weights always unpacked, against a kernel chosen by rows, {FEW_TOKENS} tokens a slot", _switch),
    ),
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


def _measured(setting: Setting, case: Case) -> dict[str, Any]:
    with _kernels(case.deterministic), chosen_by_rows() if case.by_rows else nullcontext():
        return _compare(setting, case)


def _compare(setting: Setting, case: Case) -> dict[str, Any]:
    specs = [
        run_spec(setting, ROWS, case.tokens, dtype=case.dtype, lora_r=rank, seed=slot)
        for slot, rank in enumerate(RANKS)
    ]
    trainee = random_trainee(llama_config(setting.hidden, setting.layers), specs[0], setting.device)
    (pack, _), (again, pack_s) = (_train(trainee, case, dict(enumerate(specs)), setting.turns) for _ in range(2))
    _train(trainee, case, {0: specs[0]}, 1)  # warms up
    each = [_train(trainee, case, {slot: spec}, setting.turns) for slot, spec in enumerate(specs)]
    alone = torch.cat([losses_of for losses_of, _ in each], dim=1)
    apart = (pack - alone).abs()
    return {
        "allowed": TOLERANCES[case.dtype],
        "apart": float(apart.max()),
        "first_apart": float(apart[0].max()),
        "same_bits": float((pack == alone).double().mean()),
        "again_same_bits": float((pack == again).double().mean()),
        "pack_s": pack_s,
        "alone_s": sum(seconds for _, seconds in each),
        "losses": pack.tolist(),
    }


def _train(trainee: Trainee, case: Case, specs: Mapping[int, RunSpec], num_steps: int) -> tuple[torch.Tensor, float]:
    """Losses by step and slot of new adapters in these slots, and the seconds of all steps."""
    for slot, spec in specs.items():
        trainee.admit(slot, spec)
    rows, found = random_rows(case.tokens), []
    wait(trainee.device)
    start = perf_counter()
    for step in range(num_steps):
        shares = [share for share in shares_of(rows, len(RANKS), step, ROWS) if share.slot in specs]
        found.append(losses(trainee, shares))
    wait(trainee.device)
    seconds = perf_counter() - start
    for slot in specs:
        trainee.release(slot)
    return torch.tensor(found, dtype=torch.float64), seconds


if __name__ == "__main__":
    SCRIPT.run()
