"""What a strategy's worker holds of a base: while it loads, while steps run, and between them."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

from torch import nn

from raylora.spec.run import RunSpec
from raylora.train import memory
from raylora.train.evaluate import evaluate
from raylora.train.trainee import Trainee
from tests.unit.train.tiny_run import CPU, build_tiny, open_rows, run_steps


def load_memory(spec: RunSpec) -> dict[str, Any]:
    """Peak of a load on each rank, and what the rank keeps of the base."""
    gc.collect()
    gc.freeze()  # the next ones do not look through what earlier cases left again
    ctypes.CDLL(None).malloc_trim(0)  # what earlier cases left free would be taken first, and not be seen
    with memory.PeakMemory(CPU) as peak:
        trainee = build_tiny(spec)
    return {
        "peak_bytes": trainee.ranks.gather(peak.peak_bytes - peak.start_bytes),
        "held_bytes": trainee.ranks.gather(trainee.held_base_bytes),
    }


def gathered_memory(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Most of the base that each rank holds while steps run, and after an evaluation that follows them.

    Also how often that evaluation had all of Python looked through for garbage, which takes longer than its passes.
    """
    rows, validation = open_rows(spec, folder / "cache")
    assert validation is not None
    trainee = build_tiny(spec)
    most_bytes = 0

    def note(*_: object) -> None:
        nonlocal most_bytes
        most_bytes = max(most_bytes, trainee.held_base_bytes)

    hooks = [module.register_forward_hook(note) for module in trainee.model.modules()]
    hooks += [module.register_full_backward_pre_hook(note) for module in trainee.model.modules()]
    run_steps(trainee, rows, range(2))
    for hook in hooks:
        hook.remove()
    looks: list[str] = []
    gc.disable()
    gc.callbacks.append(lambda phase, _: looks.append(phase))
    evaluate(trainee, {0: validation})
    gc.callbacks.pop()
    gc.enable()
    block_bytes = [whole_bytes(trainee, block) for block in trainee.model.model.layers]
    return {
        "most_bytes": trainee.ranks.gather(most_bytes),
        "held_bytes": trainee.ranks.gather(trainee.held_base_bytes),
        "num_looks_for_garbage": looks.count("start"),
        "block_bytes": max(block_bytes),
        "root_bytes": whole_bytes(trainee, trainee.model) - sum(block_bytes),
    }


def whole_bytes(trainee: Trainee, module: nn.Module) -> int:
    return sum(trainee.strategy.whole_bytes(parameter) for parameter in module.parameters())
