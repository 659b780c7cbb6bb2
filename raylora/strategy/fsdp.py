"""FSDP2 shards the base: each rank holds 1/world_size of every parameter, packed rows included.

Source: torch.distributed.fsdp.fully_shard, https://arxiv.org/abs/2304.11277.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from typing_extensions import override

from raylora.strategy.contract import OptimizerFactory, Stepper
from raylora.strategy.flat import StepsFlat
from raylora.strategy.shard_stepper import ShardStepper, my_part


class Fsdp(StepsFlat):
    """The base sharded by FSDP2, one group a block and one for the rest.

    Args:
        mesh: One-dimensional mesh over all ranks.
        cpu_offload: Keep the shards in host memory (GPU runs).
        trains_base: Whether the base's own weights train.
    """

    name = "fsdp"
    shards_base = True

    def __init__(self, mesh: DeviceMesh, cpu_offload: bool = False, trains_base: bool = False) -> None:
        self._mesh, self._trains_base = mesh, trains_base
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

    @torch.no_grad()
    def local(self, parameter: nn.Parameter) -> Tensor:
        """This rank's shard."""
        return parameter.to_local() if isinstance(parameter, DTensor) else parameter.data

    @torch.no_grad()
    def full(self, parameter: nn.Parameter) -> Tensor:
        """All shards joined."""
        return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.data

    def fill(self, parameter: nn.Parameter, whole: Tensor) -> None:
        """Copy this rank's rows of it.

        Args:
            parameter: A placed one.
            whole: Of its whole shape; another dtype is converted.
        """
        self.local(parameter).copy_(my_part(whole, parameter))

    @override
    def stepper(
        self,
        adapters: Mapping[str, nn.Parameter],
        make: OptimizerFactory,
        max_grad_norm: float,
        rates: Mapping[str, float],
    ) -> Stepper:
        """One row of adapters, or the shards of a base that trains, which the spec's rules leave one rate."""
        if self._trains_base:
            return ShardStepper(adapters, make, max_grad_norm)
        return super().stepper(adapters, make, max_grad_norm, rates)

    def _shard(self, module: nn.Module) -> None:
        with torch.no_grad():
            placed = fully_shard(module, mesh=self._mesh, offload_policy=self._offload)
        if self._trains_base:
            # A step's loss is a sum over ranks, not their mean; and a rank whose rows miss a weight takes part in it.
            placed.set_gradient_divide_factor(1.0)
            placed.set_force_sum_reduction_for_comms(True)
            placed.set_reduce_scatter_unused_params(True)
