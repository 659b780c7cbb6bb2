"""`python -m benchmarks.gpu.paging`: optimizers that page, keep 8 bits or offload, where plain AdamW has no memory.

The device is filled until half of plain AdamW's moments would fit beside all else. Whoever trains there pages them,
keeps them smaller, or has the base or the moments in host memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from bitsandbytes.functional import GlobalPageManager

from benchmarks.gpu.attempt import OUT_OF_MEMORY, WHY_NOT, attempt, told, why_not
from benchmarks.gpu.claim import Claim, held
from benchmarks.gpu.device import only_left, timed
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import SEVEN_B, llama_config, random_trainee
from benchmarks.gpu.script import Script
from benchmarks.gpu.setting import Setting
from benchmarks.tables import megabytes, table
from raylora.spec.run import RunSpec
from raylora.train.memory import PeakMemory
from raylora.train.prediction.estimate import RankBytes, estimate

RANK = 256
"""Large, so that the moments are a good part of the memory."""
ROWS, TOKENS = 1, 512
PLAIN = "adamw_torch"
EIGHT_BIT, PAGED, PAGED_EIGHT_BIT = "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit"
FSDP, ZERO3, ZERO2 = (f"adamw_torch, {of} with cpu_offload" for of in ("fsdp", "ZeRO-3", "ZeRO-2"))
SIDES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    EIGHT_BIT: {"optimizer": EIGHT_BIT},
    FSDP: {"distributed": {"strategy": "fsdp", "cpu_offload": True}},
    ZERO3: {"distributed": {"strategy": "deepspeed", "zero_stage": 3, "cpu_offload": True}},
    ZERO2: {"distributed": {"strategy": "deepspeed", "zero_stage": 2, "cpu_offload": True}},
    # Last: what they took stays managed until the process ends.
    PAGED_EIGHT_BIT: {"optimizer": PAGED_EIGHT_BIT},
    PAGED: {"optimizer": PAGED},
}
NOT_ASKED = "left out: asks for more managed memory than is free; see --oversubscribe"
NO_DEEPSPEED = "left out: DeepSpeed is not installed"


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """Each side in the same room."""
    plain = _predicted(setting, _spec(setting, {}))
    room_bytes = plain.peak_bytes - plain.optimizer_bytes // 2
    results: dict[str, Any] = {"room_bytes": room_bytes, "cases": {}}
    with _alone(setting.device):
        for name in SIDES:
            results["cases"][name] = _side(setting, name, room_bytes)
            yield results


def render(results: Mapping[str, Any]) -> str:
    """A line for each side."""
    head = (
        *("optimizer", "s a step", "peak on the device, MB", "predicted, MB", "managed by the driver, MB"),
        *("predicted on the host, MB", "loss"),
    )
    rows = [
        (
            name,
            told(case, "step_s", "{:.3f}".format) or why_not(case),
            told(case, "peak_bytes", megabytes),
            told(case, "predicted_bytes", megabytes),
            told(case, "managed_bytes", megabytes),
            told(case, "host_bytes", megabytes),
            told(case, "losses", lambda each: f"{each[0]:.3f} to {each[-1]:.3f}"),
        )
        for name, case in results["cases"].items()
    ]
    return (
        f"LoRA r={RANK} on all linear layers, {ROWS} x {TOKENS} tokens; {megabytes(results['room_bytes'])} MB are "
        f"free, what {PLAIN} needs without half of its moments. The peak is that of torch's allocator, which "
        "paged memory is no part of: where both together are more than is free, some of it lay on the host. On a CPU "
        f"nothing is filled and nothing pages.\n\n{table(head, rows)}"
    )


def _trains(side: str) -> Callable[[Mapping[str, Any]], str | None]:
    """Where the plain optimizer does not."""

    def found(results: Mapping[str, Any]) -> str | None:
        plain, case = (results["cases"].get(name, {}) for name in (PLAIN, side))
        if "step_s" in plain:
            return "**missed**: the plain one trained as well"
        if "step_s" in case:
            return held(True, f"{case['step_s']:.2f} s a step")
        return held(False, OUT_OF_MEMORY) if case.get(WHY_NOT) == OUT_OF_MEMORY else None

    return found


def _pages(side: str) -> Callable[[Mapping[str, Any]], str | None]:
    def found(results: Mapping[str, Any]) -> str | None:
        case = results["cases"].get(side, {})
        if "step_s" not in case:
            return _trains(side)(results) if "step_s" not in results["cases"].get(PLAIN, {}) else None
        beyond = case["peak_bytes"] + case["managed_bytes"] - results["room_bytes"]
        return held(beyond > 0, f"{megabytes(max(0, beyond))} MB more than was free")

    return found


SCRIPT = Script(
    "paging",
    "Optimizers under pressure",
    "optimizers that page or keep 8 bits, and what fsdp and ZeRO offload, where plain AdamW is out of memory",
    (
        Claim("8-bit AdamW trains where plain AdamW is out of memory", _trains(EIGHT_BIT)),
        Claim("paged AdamW trains there, its moments partly on the host", _pages(PAGED)),
        Claim("paged 8-bit AdamW trains there", _trains(PAGED_EIGHT_BIT)),
        Claim("so does plain AdamW with the base offloaded by fsdp", _trains(FSDP)),
        Claim("with the base offloaded by ZeRO-3", _trains(ZERO3)),
        Claim("with the moments offloaded by ZeRO-2", _trains(ZERO2)),
    ),
    measure,
    render,
    *SEVEN_B,
    turns=5,
)


def _side(setting: Setting, name: str, room_bytes: int) -> dict[str, Any]:
    spec = _spec(setting, SIDES[name])
    predicted = _predicted(setting, spec)
    found: dict[str, Any] = {"predicted_bytes": predicted.peak_bytes, "host_bytes": predicted.host_bytes}
    if name in (PAGED, PAGED_EIGHT_BIT) and setting.device.type == "cuda" and not setting.oversubscribes:
        return found | {WHY_NOT: NOT_ASKED}
    if spec.distributed.strategy == "deepspeed" and find_spec("deepspeed") is None:
        return found | {WHY_NOT: NO_DEEPSPEED}
    return found | attempt(setting, name, partial(_train, setting, spec, room_bytes))


def _train(setting: Setting, spec: RunSpec, room_bytes: int) -> dict[str, Any]:
    rows, seconds, told_losses = random_rows(TOKENS), [], []
    managed_before = _managed_bytes()
    with only_left(setting.device, room_bytes), PeakMemory(setting.device) as memory:
        trainee = random_trainee(llama_config(setting.hidden, setting.layers), spec, setting.device)
        trainee.admit(0, spec)
        for turn in range(1 + setting.turns):
            step = shares_of(rows, 1, turn, ROWS)
            seconds.append(timed(setting.device, lambda step=step: told_losses.extend(losses(trainee, step))))
    return {
        "step_s": median(seconds[1:]),
        "peak_bytes": memory.peak_bytes - memory.start_bytes,
        "managed_bytes": _managed_bytes() - managed_before,
        "losses": told_losses,
    }


def _managed_bytes() -> int:
    """All that bitsandbytes has asked the driver for, which it keeps."""
    return sum(tensor.nbytes for tensor in getattr(GlobalPageManager.get_instance(), "paged_tensors", ()))


def _spec(setting: Setting, fields: Mapping[str, Any]) -> RunSpec:
    return run_spec(setting, ROWS, TOKENS, lora_r=RANK, **fields)


def _predicted(setting: Setting, spec: RunSpec) -> RankBytes:
    return estimate(spec, llama_config(setting.hidden, setting.layers), setting.device.type).ranks[0]


@contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """A process group of one, which sharding asks for; DeepSpeed reads its place from the environment."""
    before = dict(os.environ)
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK=str(device.index or 0))
    with TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()
            os.environ.clear()
            os.environ.update(before)


if __name__ == "__main__":
    SCRIPT.run()
