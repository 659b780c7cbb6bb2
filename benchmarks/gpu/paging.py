"""`python -m benchmarks.gpu.paging`: optimizers that page, keep 8 bits or offload, where plain AdamW has no memory.

The device is filled until half of plain AdamW's moments would fit beside all else. Whoever trains there pages them,
keeps them smaller, or has the base in host memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.gpu.device import forget, only_left, timed
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import SEVEN_B, llama_config, random_trainee
from benchmarks.gpu.setting import Script, Setting
from benchmarks.tables import megabytes, table
from raylora.spec.run import RunSpec
from raylora.train.estimate import RankBytes, estimate
from raylora.train.memory import PeakMemory

RANK = 256
"""Large, so that the moments are a good part of the memory."""
ROWS, TOKENS = 1, 512
PLAIN = "adamw_torch"
SIDES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "adamw_bnb_8bit": {"optimizer": "adamw_bnb_8bit"},
    "paged_adamw_32bit": {"optimizer": "paged_adamw_32bit"},
    "paged_adamw_8bit": {"optimizer": "paged_adamw_8bit"},
    "adamw_torch, fsdp with cpu_offload": {"distributed": {"strategy": "fsdp", "cpu_offload": True}},
}


def measure(setting: Setting) -> dict[str, Any]:
    """Each side in the same room."""
    plain = _predicted(setting, _spec(setting, {}))
    room_bytes = plain.peak_bytes - plain.optimizer_bytes // 2
    with _alone(setting.device):
        return {"room_bytes": room_bytes, "sides": {name: _side(setting, name, room_bytes) for name in SIDES}}


def render(results: Mapping[str, Any]) -> str:
    """A line for each side."""
    head = ("optimizer", "s a step", "peak on the device, MB", "predicted, MB", "of it on the host, MB", "loss")
    rows = [
        (
            name,
            f"{side['step_s']:.3f}" if "step_s" in side else "out of memory",
            megabytes(side["peak_bytes"]) if "peak_bytes" in side else "",
            megabytes(side["predicted"]["peak_bytes"]),
            megabytes(side["predicted"]["host_bytes"]),
            f"{side['losses'][0]:.3f} to {side['losses'][-1]:.3f}" if "losses" in side else "",
        )
        for name, side in results["sides"].items()
    ]
    return (
        f"LoRA r={RANK} on all linear layers, {ROWS} x {TOKENS} tokens; {megabytes(results['room_bytes'])} MB are "
        f"free, what {PLAIN} needs without half of its moments. The peak is that of torch's allocator, which "
        f"paged memory is no part of. On a CPU nothing is filled and nothing pages.\n\n{table(head, rows)}"
    )


SCRIPT = Script(
    "paging",
    "Optimizers under pressure",
    "paged and 8-bit optimizers, and an offloaded base, train where plain AdamW is out of memory",
    measure,
    render,
    *SEVEN_B,
    turns=5,
)


def _side(setting: Setting, name: str, room_bytes: int) -> dict[str, Any]:
    print(name, file=sys.stderr, flush=True)
    spec = _spec(setting, SIDES[name])
    predicted = _predicted(setting, spec)
    found: dict[str, Any] = {
        "predicted": {"peak_bytes": predicted.peak_bytes, "host_bytes": predicted.host_bytes},
    }
    try:
        with only_left(setting.device, room_bytes):
            return found | _train(setting, spec)
    except torch.OutOfMemoryError:
        return found
    finally:
        forget(setting.device)


def _train(setting: Setting, spec: RunSpec) -> dict[str, Any]:
    rows, seconds, told = random_rows(TOKENS), [], []
    with PeakMemory(setting.device) as memory:
        trainee = random_trainee(llama_config(setting.hidden, setting.layers), spec, setting.device)
        trainee.admit(0, spec)
        for turn in range(1 + setting.turns):
            step = shares_of(rows, 1, turn, ROWS)
            seconds.append(timed(setting.device, lambda step=step: told.extend(losses(trainee, step))))
    return {"step_s": median(seconds[1:]), "peak_bytes": memory.peak_bytes - memory.start_bytes, "losses": told}


def _spec(setting: Setting, fields: Mapping[str, Any]) -> RunSpec:
    return run_spec(setting, ROWS, TOKENS, lora_r=RANK, **fields)


def _predicted(setting: Setting, spec: RunSpec) -> RankBytes:
    return estimate(spec, llama_config(setting.hidden, setting.layers), setting.device.type).ranks[0]


@contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """A process group of one, which sharding asks for."""
    with TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


if __name__ == "__main__":
    SCRIPT.run()
