"""Adapters as one flat row, whole on every rank: one all-reduce, one norm, one optimizer update a step.

Used by every strategy that leaves the optimizer alone (ddp, fsdp, zero3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raylora.strategy.contract import OptimizerFactory


class FlatStepper:
    """Steps parameters that it re-homes as views of one row.

    Args:
        adapters: Parameters by name, all of one dtype; their data and gradients become views.
        make: Makes the optimizer of the row.
        max_grad_norm: Largest gradient norm; 0 for no clipping.
        is_shared: Whether all ranks train these parameters, each on rows of its own.
    """

    def __init__(
        self,
        adapters: Mapping[str, nn.Parameter],
        make: OptimizerFactory,
        max_grad_norm: float,
        is_shared: bool = True,
    ) -> None:
        self._row = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in adapters.values()]))
        self._grad = self._row.grad = torch.zeros_like(self._row)
        self._places: dict[str, tuple[slice, torch.Size]] = {}
        start = 0
        for name, parameter in adapters.items():
            end = start + parameter.numel()
            self._places[name] = slice(start, end), parameter.shape
            parameter.data = self._part(self._row.data, name)
            parameter.grad = self._part(self._grad, name)
            start = end
        self._optimizer = make([self._row])
        self._max_grad_norm = max_grad_norm
        self._is_shared = is_shared and dist.is_initialized() and dist.get_world_size() > 1

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        loss.backward()

    def step(self, learning_rate: float) -> float:
        """Sum over ranks, clip by norm, update, clear; return the norm before clipping.

        Nothing is updated where the norm is not finite.
        """
        if self._is_shared:
            dist.all_reduce(self._grad)
        norm = float(torch.linalg.vector_norm(self._grad))
        if self._max_grad_norm and norm > self._max_grad_norm:
            self._grad.mul_(self._max_grad_norm / (norm + 1e-6))  # torch.nn.utils.clip_grad_norm_'s epsilon
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if math.isfinite(norm):
            self._optimizer.step()
        self.forget()
        return norm

    def forget(self) -> None:
        """Clear the gradient."""
        self._grad.zero_()

    def state(self) -> dict[str, Tensor]:
        """The moments by ``<moment>.<parameter>``; what belongs to no parameter by its own name.

        The latter are ``step`` (the optimizer's count of steps) and the scales and codes of 8-bit moments.
        """
        state: dict[str, Tensor] = {}
        for moment, value in self._optimizer.state.get(self._row, {}).items():
            whole = torch.as_tensor(value)
            if whole.shape == self._row.shape:
                state |= {f"{moment}.{name}": self._part(whole, name).clone() for name in self._places}
            else:
                state[moment] = whole.clone()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up saved moments."""
        moments: dict[str, Any] = {}
        for key, value in state.items():
            moment, _, name = key.partition(".")
            if name:
                row = moments.setdefault(moment, torch.zeros_like(self._row, dtype=value.dtype))
                self._part(row, name).copy_(value)
            elif value.ndim == 0 and not value.is_floating_point():  # bitsandbytes counts its steps as a plain number
                moments[moment] = int(value)
            else:
                moments[moment] = value.to(self._row.device, copy=True)
        self._optimizer.state.clear()
        if moments:
            self._optimizer.state[self._row] = moments

    def _part(self, row: Tensor, name: str) -> Tensor:
        where, shape = self._places[name]
        return row[where].view(shape)
