"""`python -m benchmarks.gpu.headline`: a 65B-shaped base in NF4 trains under a cap of 48 GB, and what 80 GB hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.device import capped, forget, timed, total_bytes
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import SIXTY_FIVE_B, llama_config, random_trainee
from benchmarks.gpu.setting import Script, Setting
from benchmarks.tables import megabytes, table
from raylora.train.estimate import estimate
from raylora.train.memory import PeakMemory

CAP_BYTES, WIDER_BYTES = 48 * 10**9, 80 * 10**9
TOKENS = 512
MOST_ROWS_OF_TOKENS = 128
"""The longest sequence that is looked for is so many times `TOKENS`."""
SHARE = 0.97
"""Of a cap that a prediction may fill: the allocator leaves gaps."""
CLOSE = 0.05
"""A prediction may be off by this part."""


@dataclass(frozen=True)
class Case:
    """What is trained under which cap.

    Args:
        layers: Blocks of the base.
        tokens: Of the one row.
        cap_bytes: What torch may take.
    """

    layers: int
    tokens: int
    cap_bytes: int


def measure(setting: Setting) -> dict[str, Any]:
    """QLoRA's headline, then the longest sequence and the largest base by prediction, each trained."""
    layers, tokens = setting.layers, TOKENS
    wider = WIDER_BYTES
    if setting.device.type == "cuda":
        wider = min(wider, total_bytes(setting.device))

    def fits(layers: int, tokens: int) -> bool:
        return _predicted(setting, layers, tokens) <= SHARE * wider

    longest = TOKENS * _most(lambda times: fits(layers, TOKENS * times), MOST_ROWS_OF_TOKENS)
    largest = _most(lambda number: fits(number, TOKENS), 4 * layers)
    cases = {
        "QLoRA's headline": Case(layers, tokens, CAP_BYTES),
        "longest sequence": Case(layers, longest, wider),
        "largest base": Case(largest, tokens, wider),
    }
    return {"close": CLOSE, "cases": {name: _train(setting, name, case) for name, case in cases.items()}}


def render(results: Mapping[str, Any]) -> str:
    """A line for each case."""
    head = ("", "layers", "values, 10^9", "tokens", "cap, MB", "predicted, MB", "measured, MB", "off by", "s a step")
    rows = []
    for name, case in results["cases"].items():
        ran = ("out of memory", "", "")
        if "peak_bytes" in case:
            off = case["peak_bytes"] / case["predicted_bytes"] - 1
            ran = (megabytes(case["peak_bytes"]), f"{off:+.1%}", f"{case['step_s']:.2f}")
        sizes = (str(case["layers"]), f"{case['parameters'] / 1e9:.1f}", str(case["tokens"]))
        rows.append((name, *sizes, megabytes(case["cap_bytes"]), megabytes(case["predicted_bytes"]), *ran))
    return (
        "LoRA r=16 on all linear layers, torch's AdamW, batch 1. The peak is that of loading and training, and is to "
        f"be within {results['close']:.0%} of what was predicted; on a CPU nothing is capped.\n\n{table(head, rows)}"
    )


SCRIPT = Script(
    "headline",
    "A 65B-shaped base under 48 GB",
    "a 65B-shaped base in NF4 trains r=16 adapters within 48 GB, with the peak within 5 % of the prediction",
    measure,
    render,
    *SIXTY_FIVE_B,
    turns=2,
)


def _most(fits: Callable[[int], bool], at_most: int) -> int:
    """The largest number that fits, at least 1."""
    low, high = 1, at_most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _predicted(setting: Setting, layers: int, tokens: int) -> int:
    spec = run_spec(setting, 1, tokens)
    return estimate(spec, llama_config(setting.hidden, layers), setting.device.type).peak_bytes


def _train(setting: Setting, name: str, case: Case) -> dict[str, Any]:
    """Make the base and take some steps under the cap, the first of which warms up."""
    print(f"{name}: {case}", file=sys.stderr, flush=True)
    config = llama_config(setting.hidden, case.layers)
    found: dict[str, Any] = {
        "layers": case.layers,
        "tokens": case.tokens,
        "cap_bytes": case.cap_bytes,
        "predicted_bytes": _predicted(setting, case.layers, case.tokens),
        "parameters": estimate(run_spec(setting, 1, TOKENS), config, setting.device.type).base_parameters,
    }
    try:
        with capped(setting.device, case.cap_bytes):
            return found | _steps(setting, case)
    except torch.OutOfMemoryError:
        return found
    finally:
        forget(setting.device)


def _steps(setting: Setting, case: Case) -> dict[str, Any]:
    config, spec = llama_config(setting.hidden, case.layers), run_spec(setting, 1, case.tokens)
    rows, seconds, told = random_rows(case.tokens), [], []
    with PeakMemory(setting.device) as memory:
        trainee = random_trainee(config, spec, setting.device)
        trainee.admit(0, spec)
        for turn in range(1 + setting.turns):
            step = shares_of(rows, 1, turn, 1)
            seconds.append(timed(setting.device, lambda step=step: told.extend(losses(trainee, step))))
    return {
        "peak_bytes": memory.peak_bytes - memory.start_bytes,
        "step_s": median(seconds[1:]),
        "losses": told,
    }


if __name__ == "__main__":
    SCRIPT.run()
