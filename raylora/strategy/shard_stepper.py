"""A base that trains under FSDP2: each rank updates its shard of every weight, with moments for that shard alone.

The placed weights enter as DTensors, whose gradients FSDP2 has summed and scattered when a backward pass ends. What is
told and kept of the moments is whole again, weight by weight, so that a checkpoint knows nothing of shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from raylora.strategy.clipped_update import clipped_update
from raylora.strategy.contract import MOMENTS, OptimizerFactory
from raylora.strategy.saved_moments import check_moments
from raylora.strategy.shares import piece


class ShardStepper:
    """Steps shards.

    Args:
        sharded: The placed weights by name.
        make: Makes the optimizer, torch's AdamW.
        max_grad_norm: Largest gradient norm, of all weights together; 0 for no clipping.
    """

    def __init__(self, sharded: Mapping[str, nn.Parameter], make: OptimizerFactory, max_grad_norm: float) -> None:
        self._sharded = {name: cast(DTensor, parameter) for name, parameter in sharded.items()}
        with torch.no_grad():  # the shard itself, not a copy of it
            shards = {name: nn.Parameter(parameter.to_local()) for name, parameter in self._sharded.items()}
        self._shards = {name: shard for name, shard in shards.items() if shard.numel()}  # short weights leave some none
        self._optimizer = make([{"params": list(self._shards.values())}])
        self._max_grad_norm = max_grad_norm

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss; FSDP2 sums over ranks."""
        loss.backward()

    @property
    def unsummed(self) -> None:
        """FSDP2 has summed over ranks."""

    def step(self, learning_rate: float, updated: Callable[[], None] | None = None) -> float:
        """Clip by the norm over all shards, update, clear; nothing is updated where it is not finite.

        Args:
            learning_rate: Of this step.
            updated: As of `Stepper`.
        """
        gradients = self._take_gradients()
        norm = self._norm(gradients)
        clipped_update(self._optimizer, gradients, norm, self._max_grad_norm, learning_rate, updated)
        self.forget()
        return norm

    def forget(self) -> None:
        """Clear the gradient."""
        for parameter in (*self._sharded.values(), *self._shards.values()):
            parameter.grad = None

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The moments by ``<moment>.<weight>``, gathered one by one; none before the first step."""
        held = self._optimizer.state
        if not held:
            return
        for moment in MOMENTS:
            for name, parameter in self._sharded.items():
                mine = held[self._shards[name]][moment] if name in self._shards else None
                yield f"{moment}.{name}", _whole(mine, parameter)
        yield "step", next(iter(held.values()))["step"]

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up this rank's part of saved moments.

        Raises:
            StoreError: They are of another kind of optimizer.
        """
        check_moments(state)
        self._optimizer.state.clear()
        if not state:
            return
        for name, shard in self._shards.items():
            moments: dict[str, Any] = {"step": state["step"].clone()}
            for moment in MOMENTS:
                part = my_part(state[f"{moment}.{name}"], self._sharded[name])
                moments[moment] = part.to(shard, copy=True)  # an engine's moments are in float32
            self._optimizer.state[shard] = moments

    def _take_gradients(self) -> list[Tensor]:
        """Let the optimizer see this rank's part of the gradients."""
        for name, shard in self._shards.items():
            shard.grad = cast(DTensor, self._sharded[name].grad).to_local()
        return [cast(Tensor, shard.grad) for shard in self._shards.values()]

    def _norm(self, gradients: list[Tensor]) -> float:
        """Of all weights over all ranks."""
        of_mine = nn.utils.get_total_norm(gradients).double()
        square = of_mine.square_()
        dist.all_reduce(square)
        return math.sqrt(square) if torch.isfinite(square) else float(square)


def my_part(whole: Tensor, parameter: nn.Parameter | Tensor) -> Tensor:
    """This rank's rows of a whole tensor, as FSDP2 deals out those of a placed weight.

    Args:
        whole: Of the weight's whole shape.
        parameter: The placed weight; one that is no DTensor is held whole.
    """
    if not isinstance(parameter, DTensor):
        return whole
    mesh, shape = parameter.device_mesh, parameter.shape
    mine = piece("fsdp", shape, mesh.get_local_rank(), mesh.size())
    return whole.reshape(-1)[mine.start : mine.stop].view(-1, *shape[1:])


def _whole(shard: Tensor | None, like: DTensor) -> Tensor:
    """Join the shards of a tensor that is cut as a weight is; ``None`` for a shard of no rows."""
    with torch.no_grad():
        local = like.to_local() if shard is None else shard
    made = DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return made.full_tensor()
