"""Adapters of any kind in any number of slots over one base; a solo run has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.low_rank import LowRank
from raylora.model.adapter.peft_format import adapter_config, short_targets, tensor_name
from raylora.model.adapter.site import Site
from raylora.model.adapter.slot import Slot
from raylora.model.adapter.vera import Projections
from raylora.model.bank.heads import Heads
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.base.head_seat import seat_of
from raylora.model.base.task_class import TWO_SIDES, draws_by_rows
from raylora.model.rows.route import Route, Span
from raylora.model.rows.row_dropout import OF_BOTH_ENDS, draw_by_rows
from raylora.spec.fields.task import OF_VALUES, TaskType


class PackedBank:
    """Low-rank layers hooked onto the linear layers of a base.

    Args:
        model: The base from `base_on_meta`, filled or not, placed or not.
        base_name: Logical name and revision of the base, for the exported config.
        device: Where the parameters live.
        weights: Reads layers' weights for adapters that start from them; those in the layers where absent.
        task: What the base is for, as the exported config says.
    """

    def __init__(
        self,
        model: nn.Module,
        base_name: tuple[str, str | None],
        device: torch.device,
        weights: BaseWeights | None = None,
        task: TaskType = "causal_lm",
    ) -> None:
        self._model, self._base_name, self._device, self._task = model, base_name, device, task
        self._weights = weights or BaseWeights(model)
        self._route, self._projections = Route(), Projections(device)
        self._heads = Heads(seat_of(model), self._route, device, self._weights)
        if isinstance(model, PreTrainedModel) and draws_by_rows(model.config):
            draw_by_rows(model, "", self._route)
            if model.config.model_type in TWO_SIDES:
                self._route.num_draws, self._route.repeating = Counter(), OF_BOTH_ENDS
        self._layers: dict[str, LowRank] = {}
        self._targets: dict[int, list[str]] = {}
        self._settings: dict[int, Slot] = {}

    def admit(self, slot: int, settings: Slot, targets: Sequence[str]) -> None:
        """Give a slot a new adapter, or, where a part of it cannot be made, none; the other slots are not touched."""
        self._targets[slot], self._settings[slot], self._route.seeds[slot] = [], settings, settings.seed
        with ExitStack() as undo:
            undo.callback(self.release, slot)
            bases = {name: cast(FrozenLinear, self._model.get_submodule(name)) for name in targets}
            projection = self._projections.of(settings, list(bases.values()))
            for name, base in bases.items():
                if name not in self._layers:
                    self._layers[name] = LowRank(Site(name, base, self._device, self._weights), self._route)
                self._layers[name].admit(slot, settings, projection)
                self._targets[slot].append(name)
            self._heads.admit(slot, settings)
            undo.pop_all()

    def release(self, slot: int) -> None:
        """Forget a slot's adapter."""
        del self._settings[slot], self._route.seeds[slot]
        self._heads.release(slot)
        for layer in self._of(slot):
            del layer.updates[slot]
        del self._targets[slot]

    def kind(self, slot: int) -> tuple[float, ...]:
        """Rank, scale and dropout; nothing of a slot without an adapter."""
        settings = self._settings.get(slot)
        return () if settings is None else (settings.r, settings.scale, settings.dropout)

    def parameters(self, slot: int) -> dict[str, nn.Parameter]:
        """What trains at every target, by ``<module>.lora_A`` and so on, and the slot's head where it has one."""
        adapter = {
            f"{layer.name}.{matrix}": parameter
            for layer in self._of(slot)
            for matrix, parameter in layer.updates[slot].trained.items()
        }
        return adapter | self._heads.parameters(slot)

    def frozen(self, slot: int) -> list[Tensor]:
        """What a slot holds beside what trains."""
        return [tensor for layer in self._of(slot) for tensor in layer.updates[slot].frozen]

    def route(self, spans: Sequence[Span]) -> None:
        """Set whose tokens the next forward pass holds."""
        self._route.begin(tuple(spans))

    def train(self, training: bool) -> None:
        """Switch dropout on or off."""
        self._route.training = training

    def export(self, slot: int) -> Adapter:
        """One slot as a PEFT adapter."""
        return Adapter(
            {name: tensor.to("cpu", copy=True) for name, tensor in self.state(slot)},
            self._config(slot),
            {layer.name: layer.shape for layer in self._of(slot)},
        )

    def state(self, slot: int) -> Iterator[tuple[str, Tensor]]:
        """The tensors of :meth:`export`, where they live."""
        for layer in self._of(slot):
            for matrix, tensor in layer.updates[slot].export().items():
                yield self._name(slot, layer, matrix), tensor
        yield from self._heads.state(slot)

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill one slot from a PEFT adapter of the same kind, rank and targets."""
        for layer in self._of(slot):
            update = layer.updates[slot]
            update.load({matrix: tensors[self._name(slot, layer, matrix)] for matrix in update.trained})
        self._heads.load(slot, tensors)

    def _of(self, slot: int) -> list[LowRank]:
        return [self._layers[name] for name in self._targets[slot]]

    def _name(self, slot: int, layer: LowRank, matrix: str) -> str:
        return tensor_name(layer.name, matrix, bare=self._settings[slot].use_adalora)

    def _config(self, slot: int) -> dict[str, Any]:
        short = short_targets(self._model, self._targets[slot])
        of_task = {"task_type": None if self._task in OF_VALUES else self._task.upper()} | self._heads.config
        return adapter_config(self._settings[slot], short, self._base_name) | of_task
