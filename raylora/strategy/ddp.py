"""Every rank holds the whole base; only the gradients of what trains travel."""

from __future__ import annotations

from torch import Tensor, nn

from raylora.strategy.flat import StepsFlat


class Ddp(StepsFlat):
    """The base replicated; also what a single worker uses."""

    name = "ddp"
    shards_base = False

    def place_block(self, block: nn.Module) -> None:
        """Nothing to do: the block stays whole."""

    def place_root(self, model: nn.Module) -> None:
        """Nothing to do: the model stays whole."""

    def rest(self, model: nn.Module) -> None:
        """Nothing to do: nothing was gathered."""

    def held_bytes(self, parameter: nn.Parameter) -> int:
        """Bytes of the whole parameter."""
        return parameter.numel() * parameter.element_size()

    def whole_bytes(self, parameter: nn.Parameter) -> int:
        """Bytes of the whole parameter."""
        return parameter.numel() * parameter.element_size()

    def local(self, parameter: nn.Parameter) -> Tensor:
        """The whole parameter."""
        return parameter.data

    def full(self, parameter: nn.Parameter) -> Tensor:
        """The whole parameter."""
        return parameter.data

    def fill(self, parameter: nn.Parameter, whole: Tensor) -> None:
        """Copy it.

        Args:
            parameter: A placed one.
            whole: Of its whole shape; another dtype is converted.
        """
        parameter.data.copy_(whole)
