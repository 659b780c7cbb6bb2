"""What trains: a bank of adapters over one frozen base, behind one Protocol with two backends.

The loop sees parameters and slots, never modules. ``packed_bank`` stacks K adapters in layers of
ours; ``peft_bank`` holds one adapter in PEFT's own modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Adapter:
    """One adapter in PEFT's format.

    Args:
        tensors: By the names of ``adapter_model.safetensors``, without rank padding.
        config: The fields of ``adapter_config.json``.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]


class AdapterBank(Protocol):
    """Adapters attached to a base."""

    num_slots: int
    """Adapters held (K)."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""

    def num_parameters(self, slot: int) -> int:
        """Values that train in one slot, without rank padding."""

    def begin(self, step: int, micro_step: int, rank: int) -> None:
        """Say where training stands, before each forward pass; dropout masks follow from it alone.

        Args:
            step: Optimizer step, from 0.
            micro_step: Forward pass within the step, from 0.
            rank: Of this process, from 0.
        """

    def train(self, training: bool) -> None:
        """Switch dropout on or off."""

    def export(self, slot: int) -> Adapter:
        """One slot as a PEFT adapter."""

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take up tensors that :meth:`export` gave.

        Args:
            slot: From 0 to ``num_slots - 1``.
            tensors: By the names of :meth:`export`.
        """
