"""What trains: a bank of adapters over one frozen base, or that base itself, behind one Protocol with three backends.

The loop sees parameters and slots, never modules. ``packed_bank`` holds any number of adapters in layers of ours;
``peft_bank`` holds one, as slot 0, in PEFT's own modules; ``full_bank`` has the base's own weights as slot 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from raylora.model.adapter.slot import Slot
from raylora.model.rows.route import Span


@dataclass(frozen=True)
class Adapter:
    """One adapter in PEFT's format, or the weights of a base that trains, which have no config.

    Args:
        tensors: By the names of ``adapter_model.safetensors``.
        config: The fields of ``adapter_config.json``.
        layers: Output and input features of the adapted layers by their dotted names, as far as they are known.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)


class AdapterBank(Protocol):
    """Adapters attached to a base."""

    def admit(self, slot: int, settings: Slot, targets: Sequence[str]) -> None:
        """Give a slot a new adapter.

        Args:
            slot: A free one, from 0.
            settings: Of the adapter.
            targets: Dotted names of the linear layers that get it.
        """

    def release(self, slot: int) -> None:
        """Forget a slot's adapter."""

    def kind(self, slot: int) -> tuple[float, ...]:
        """Equal for slots whose adapters are computed in common where their tokens lie side by side."""

    def parameters(self, slot: int) -> dict[str, nn.Parameter]:
        """What trains in a slot, by names that hold PEFT's: ``lora_A``, ``lora_B``, ``lora_magnitude_vector`` ...

        A head's begin with ``modules_to_save.``; where the base itself trains, names are the model's own.
        """

    def frozen(self, slot: int) -> list[Tensor]:
        """What a slot holds beside what trains."""

    def route(self, spans: Sequence[Span]) -> None:
        """Say whose tokens the next forward pass holds, and where each slot's training stands.

        Dropout masks follow from it alone.
        """

    def train(self, training: bool) -> None:
        """Switch dropout on or off."""

    def export(self, slot: int) -> Adapter:
        """One slot as a PEFT adapter; of a base that trains its weights, a collective call."""

    def state(self, slot: int) -> Iterator[tuple[str, Tensor]]:
        """What a checkpoint keeps of a slot's adapter, by name, where it lives: who keeps it copies it.

        Of a base that trains whole weights, gathered one by one; collective, to its end.
        """

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take up copies of what :meth:`state` gave.

        Args:
            slot: One whose adapter has the rank and the targets of theirs.
            tensors: By the names that they had there.
        """
