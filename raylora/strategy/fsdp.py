"""FSDP2 shards the base: each rank holds 1/world_size of every frozen parameter, packed rows included.

Source: torch.distributed.fsdp.fully_shard, https://arxiv.org/abs/2304.11277.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from raylora.strategy.flat import StepsFlat


class Fsdp(StepsFlat):
    """The base sharded by FSDP2, one group a block and one for the rest.

    Args:
        mesh: One-dimensional mesh over all ranks.
        cpu_offload: Keep the shards in host memory (GPU runs).
    """

    name = "fsdp"
    shards_base = True

    def __init__(self, mesh: DeviceMesh, cpu_offload: bool = False) -> None:
        self._mesh = mesh
        self._offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()

    def place_block(self, block: nn.Module) -> None:
        """Shard a block; it is gathered for its own forward and backward only."""
        self._shard(block)

    def place_root(self, model: nn.Module) -> None:
        """Shard the embedding, the last norm and the head."""
        self._shard(model)

    def rest(self, model: nn.Module) -> None:
        """Shard the root's parameters again: FSDP2 keeps them gathered for a backward pass."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def held_bytes(self, parameter: nn.Parameter) -> int:
        """Bytes of this rank's shard."""
        shard = self.local(parameter)
        return shard.numel() * shard.element_size()

    def whole_bytes(self, parameter: nn.Parameter) -> int:
        """Bytes of all shards, without padding."""
        return parameter.numel() * parameter.element_size()

    def local(self, parameter: nn.Parameter) -> Tensor:
        """This rank's shard."""
        return parameter.to_local() if isinstance(parameter, DTensor) else parameter.data

    def full(self, parameter: nn.Parameter) -> Tensor:
        """All shards joined."""
        return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.data

    def _shard(self, module: nn.Module) -> None:
        with torch.no_grad():
            fully_shard(module, mesh=self._mesh, offload_policy=self._offload)
