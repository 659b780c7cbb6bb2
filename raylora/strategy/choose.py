"""The spec's words -> a strategy. Backends are imported where they are chosen: DeepSpeed takes seconds."""

from __future__ import annotations

import torch

from raylora.log import get_logger
from raylora.spec.run import RunSpec
from raylora.strategy.contract import Strategy
from raylora.strategy.ddp import Ddp

log = get_logger(__name__)


def choose_strategy(spec: RunSpec, device: torch.device) -> Strategy:
    """Make the strategy of a run on the ranks of the default process group.

    Args:
        spec: The run.
        device: This rank's device.
    """
    place, offload = spec.distributed, offloads(spec, device)
    if place.strategy == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh

        from raylora.strategy.fsdp import Fsdp

        return Fsdp(
            init_device_mesh(device.type, (torch.distributed.get_world_size(),)), offload, trains_base=spec.trains_base
        )
    if place.strategy == "deepspeed":
        from raylora.strategy.deepspeed import Zero3, ZeroOptimizer

        return Zero3(offload) if place.zero_stage == 3 else ZeroOptimizer(place.zero_stage, offload, spec.trains_base)
    return Ddp()


def offloads(spec: RunSpec, device: torch.device) -> bool:
    """Whether a run keeps in host memory what the spec asks to; on a CPU there is nowhere else.

    Args:
        spec: The run.
        device: This rank's device.
    """
    if spec.distributed.cpu_offload and device.type != "cuda":
        log.warning("distributed.cpu_offload: this is a %s, so all memory is the host's; nothing moves", device.type)
        return False
    return spec.distributed.cpu_offload
