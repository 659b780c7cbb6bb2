"""What a strategy promises: it places the base on the ranks, and says how what trains steps.

The base enters block by block while it is loaded; it leaves placed. Adapters come afterwards, whole on every rank, so
one stepper of ours serves every strategy that leaves the optimizer alone. Where the base itself trains, its placed
weights are what steps. Every implementation passes ``tests/contract/test_strategy.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

ParameterGroup = dict[str, Any]
"""Of an optimizer: ``params``, and what the stepper wants to find again in `param_groups`."""
OptimizerFactory = Callable[[list[ParameterGroup]], torch.optim.Optimizer]
"""Makes the optimizer of the given parameters; the learning rate is set before each step."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Torch's names for AdamW's moments."""
MASTER = "master"
"""Of weights in 16 bits the float32 values that an engine steps in their place, kept as ``master.<parameter>``."""


class Stepper(Protocol):
    """Turns losses into updates of what trains; the same numbers on every rank."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss whose sum over ranks and calls is the step's loss."""

    @property
    def unsummed(self) -> Tensor | None:
        """This rank's part of the gradient, to be summed over ranks before `step`; ``None`` where `step` does it."""

    def step(self, learning_rate: float, updated: Callable[[], None] | None = None) -> float:
        """Clip, update, clear; return the norm before clipping.

        Args:
            learning_rate: Of this step.
            updated: Called after an update, while the clipped gradient is still there; never where none was made.
        """

    def forget(self) -> None:
        """Clear the gradient without an update."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """What the optimizer keeps, by ``<moment>.<parameter>``; collective, to its end.

        Each tensor comes whole, where it lives or as it was just gathered: what the optimizer will change, or what no
        device has room for beside the next one. Who keeps it copies it.
        """

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up a copy of what :meth:`state` gave under any strategy and world size.

        Raises:
            StoreError: The moments are of another kind of optimizer.
        """


class Strategy(Protocol):
    """Places a base on the ranks of the default process group."""

    name: str
    """What is printed: ``ddp``, ``fsdp``, ``zero1``, ``zero2`` or ``zero3``."""
    shards_base: bool
    """Whether each rank holds about 1/world_size of the base."""

    def place_block(self, block: nn.Module) -> None:
        """Place one filled block; called in loading order, the same on every rank."""

    def place_root(self, model: nn.Module) -> None:
        """Place what no block holds, and make the model ready to be called."""

    def rest(self, model: nn.Module) -> None:
        """Drop what the last forward pass gathered; called where no backward pass follows."""

    def held_bytes(self, parameter: nn.Parameter) -> int:
        """Bytes of a placed parameter that this rank holds between steps."""

    def whole_bytes(self, parameter: nn.Parameter) -> int:
        """Bytes of a placed parameter over all ranks."""

    def local(self, parameter: nn.Parameter) -> Tensor:
        """The part of a placed parameter that this rank holds."""

    def full(self, parameter: nn.Parameter) -> Tensor:
        """The whole of a placed parameter; a collective call."""

    def fill(self, parameter: nn.Parameter, whole: Tensor) -> None:
        """Put this rank's part of a whole tensor into a placed parameter; no collective call.

        Args:
            parameter: A placed one.
            whole: Of its whole shape; another dtype is converted.
        """

    def stepper(
        self,
        adapters: Mapping[str, nn.Parameter],
        make: OptimizerFactory,
        max_grad_norm: float,
        rates: Mapping[str, float],
    ) -> Stepper:
        """Make the stepper of the adapters' parameters, or of the placed base's own.

        Args:
            adapters: Parameters by name, all of one slot.
            make: Makes the optimizer.
            max_grad_norm: Largest gradient norm; 0 for no clipping.
            rates: By name, the multiple of the step's learning rate at which a parameter moves.
        """
