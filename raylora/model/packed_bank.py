"""K LoRA adapters as stacked low-rank layers over one base; a solo run is K = 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raylora.model.bank import Adapter
from raylora.model.low_rank import Clock, LowRank, Slot
from raylora.model.peft_format import adapter_config, short_targets, tensor_name


class PackedBank:
    """Stacked adapters, hooked onto the target layers of a base.

    Args:
        model: The base, filled or on the meta device, before it is placed.
        targets: Dotted names of the linear layers that get an adapter.
        slots: The adapters' settings, one a slot.
        base_name: Logical name and revision of the base, for the exported config.
        device: Where the parameters live.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[str],
        slots: Sequence[Slot],
        base_name: tuple[str, str | None],
        device: torch.device,
    ) -> None:
        self._slots, self._base_name = tuple(slots), base_name
        self.num_slots = len(self._slots)
        self._clock = Clock()
        self._target_modules = short_targets(model, targets)
        self._layers = [
            LowRank(name, model.get_submodule(name), self._slots, self._clock, device)  # type: ignore[arg-type]
            for name in targets
        ]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Both matrices of every target, by ``<module>.lora_A`` and ``<module>.lora_B``."""
        named: dict[str, nn.Parameter] = {}
        for layer in self._layers:
            named[f"{layer.name}.lora_A"] = layer.a_KRI
            named[f"{layer.name}.lora_B"] = layer.b_KOR
        return named

    def num_parameters(self, slot: int) -> int:
        """Rank times (I + O), summed over the targets."""
        return sum(self._slots[slot].r * (layer.a_KRI.shape[2] + layer.b_KOR.shape[1]) for layer in self._layers)

    def begin(self, step: int, micro_step: int, rank: int) -> None:
        """Set the clock that seeds dropout."""
        self._clock.step, self._clock.micro_step, self._clock.rank = step, micro_step, rank

    def train(self, training: bool) -> None:
        """Switch dropout on or off."""
        self._clock.training = training

    def export(self, slot: int) -> Adapter:
        """One slot as a PEFT adapter, cut to its own rank."""
        r = self._slots[slot].r
        tensors = {}
        for layer in self._layers:
            tensors[tensor_name(layer.name, "lora_A")] = layer.a_KRI.detach()[slot, :r].cpu().clone()
            tensors[tensor_name(layer.name, "lora_B")] = layer.b_KOR.detach()[slot, :, :r].cpu().contiguous().clone()
        return Adapter(tensors, self._config(slot))

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill one slot from a PEFT adapter of the same rank and targets."""
        r = self._slots[slot].r
        with torch.no_grad():
            for layer in self._layers:
                layer.a_KRI[slot, :r] = tensors[tensor_name(layer.name, "lora_A")]
                layer.b_KOR[slot, :, :r] = tensors[tensor_name(layer.name, "lora_B")]

    def _config(self, slot: int) -> dict[str, Any]:
        settings = self._slots[slot]
        return adapter_config(settings.r, settings.alpha, settings.dropout, self._target_modules, self._base_name)
