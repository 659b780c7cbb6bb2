"""The base's own weights in the place of an adapter: one slot, whose parameters are those of the model itself.

A placed base enters; what the loop sees of a slot leaves, and whole weights for checkpoints. Called where `adapter:
full` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from raylora.errors import ModelError
from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.slot import Slot
from raylora.model.base.base_weights import BaseWeights
from raylora.model.rows.route import Span


class Placed(Protocol):
    """Where a strategy has put the weights."""

    def full(self, parameter: nn.Parameter) -> Tensor:
        """The whole of a parameter; a collective call."""

    def fill(self, parameter: nn.Parameter, whole: Tensor) -> None:
        """Put this rank's part of a whole tensor into a parameter.

        Args:
            parameter: A placed one.
            whole: Of its whole shape; another dtype is converted.
        """


class FullBank:
    """All weights of a base, as slot 0.

    Args:
        model: From `base_on_meta` of a run that trains its base.
        weights: Reads the files, for a run that begins where another one trained.
        placed: What has placed the model; ``None`` where nothing is to be read from it, as in an estimate.
        keeps: Whether this rank keeps what is gathered; the others only take part.
    """

    def __init__(
        self, model: nn.Module, weights: BaseWeights | None = None, placed: Placed | None = None, keeps: bool = True
    ) -> None:
        self._model, self._weights, self._placed, self._keeps = model, weights, placed, keeps
        self._is_used = False

    def admit(self, slot: int, settings: Slot, targets: Sequence[str]) -> None:
        """Begin with the weights of the files.

        Args:
            slot: 0.
            settings: Of adapters; nothing counts.
            targets: Likewise.

        Raises:
            ModelError: There is one base, and so one slot.
        """
        if slot != 0:
            raise ModelError(f"adapter: full trains the base, which is one; got slot {slot}. Train each run alone")
        if self._is_used and self._weights is not None:
            for name, parameter in self.parameters(0).items():
                self._fill(parameter, self._weights.tensor(name))
        self._is_used = True

    def release(self, slot: int) -> None:
        """Nothing to do: `admit` starts from the files again."""

    def kind(self, slot: int) -> tuple[float, ...]:
        """There is one slot."""
        return ()

    def parameters(self, slot: int) -> dict[str, nn.Parameter]:
        """What trains of the model, each weight once, by its dotted name."""
        return {name: parameter for name, parameter in self._model.named_parameters() if parameter.requires_grad}

    def frozen(self, slot: int) -> list[Tensor]:
        """Nothing beside the base."""
        return []

    def route(self, spans: Sequence[Span]) -> None:
        """Nothing to do: all tokens go through the one set of weights."""

    def train(self, training: bool) -> None:
        """Nothing to do: dropout is the model's own."""

    def export(self, slot: int) -> Adapter:
        """Whole weights by name, and no config; on ranks that keep nothing none of them. A collective call.

        Those that a CPU holds whole are the live ones: a copy of all weights is for whoever keeps them past a step.
        """
        gathered = ((name, self.whole(parameter)) for name, parameter in self.parameters(slot).items())
        return Adapter({name: whole for name, whole in gathered if whole is not None}, {})

    def state(self, slot: int) -> Iterator[tuple[str, Tensor]]:
        """Whole weights, one by one; a collective call. Those that no other rank shares are the live ones."""
        assert self._placed is not None
        for name, parameter in self.parameters(slot).items():
            yield name, self._placed.full(parameter).detach()

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take up copies of what `state` gave."""
        for name, parameter in self.parameters(slot).items():
            self._fill(parameter, tensors[name])

    def whole(self, parameter: nn.Parameter) -> Tensor | None:
        """The whole of a weight in host memory; ``None`` on ranks that keep nothing. A collective call."""
        assert self._placed is not None
        whole = self._placed.full(parameter).detach()
        return whole.cpu() if self._keeps else None

    def _fill(self, parameter: nn.Parameter, whole: Tensor) -> None:
        assert self._placed is not None
        with torch.no_grad():
            self._placed.fill(parameter, whole.to(parameter.dtype))
