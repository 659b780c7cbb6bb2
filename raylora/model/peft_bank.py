"""One adapter in PEFT's own modules, for whoever wants PEFT's arithmetic to the letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from raylora.model.bank import Adapter
from raylora.model.base_weights import BaseWeights
from raylora.model.peft_format import MAGNITUDE, PREFIX, adapter_config, short_targets
from raylora.model.route import NOBODY, Span
from raylora.model.seed import stable_seed
from raylora.model.slot import Slot

ADAPTER = "default"


class PeftBank:
    """PEFT's LoRA modules injected into a base.

    Args:
        model: The base on the meta device, before it is filled; changed in place.
        targets: Dotted names of the linear layers that get an adapter.
        slot: The adapter's settings.
        base_name: Logical name and revision of the base, for the exported config.
        device: Where the parameters live.
        weights: As of the packed bank.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[str],
        slot: Slot,
        base_name: tuple[str, str | None],
        device: torch.device,
        weights: BaseWeights | None = None,
    ) -> None:
        self._config = adapter_config(slot, short_targets(model, targets), base_name)
        config = LoraConfig(
            r=slot.r,
            lora_alpha=self._config["lora_alpha"],
            lora_dropout=slot.dropout,
            target_modules=list(targets),
            use_rslora=slot.use_rslora,
            use_dora=slot.use_dora,
            init_lora_weights=slot.init_lora_weights,  # type: ignore[arg-type]
        )
        self._model = inject_adapter_in_model(config, model, ADAPTER)
        self._layers: dict[str, Any] = {
            name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
        }
        self._device, self._weights, self._is_off = device, weights or BaseWeights(model), False

    def admit(self, slot: int, settings: Slot, targets: Sequence[str]) -> None:
        """Start the adapter anew; its modules came with the bank, as PEFT's must be there before the weights."""
        torch.manual_seed(stable_seed("start", settings.seed))
        for layer in self._layers.values():
            for kind in ("lora_A", "lora_B", MAGNITUDE):
                for module in getattr(layer, kind).values():
                    # New ones: what stepped those of the adapter before, an engine with its hooks, stays with them.
                    empty = torch.empty(module.weight.shape, dtype=torch.float32, device=self._device)
                    module.weight = nn.Parameter(empty)
            layer.reset_lora_parameters(ADAPTER, settings.init_lora_weights)
        if settings.use_dora and self._device.type != "meta":
            self._start_magnitudes()

    def release(self, slot: int) -> None:
        """Nothing to do: PEFT's modules stay where they are, and `admit` starts the next adapter in them."""

    def kind(self, slot: int) -> tuple[float, ...]:
        """There is one slot."""
        return ()

    def parameters(self, slot: int) -> dict[str, nn.Parameter]:
        """PEFT's matrices by their dotted names."""
        return {name: parameter for name, parameter in self._model.named_parameters() if parameter.requires_grad}

    def frozen(self, slot: int) -> list[Tensor]:
        """Nothing: PEFT computes norms anew."""
        return []

    def route(self, spans: Sequence[Span]) -> None:
        """Go without the adapter where the tokens are nobody's; PEFT's dropout draws from what a step seeds."""
        is_off = any(span.slot == NOBODY for span in spans)
        if is_off != self._is_off:
            self._is_off = is_off
            for layer in self._layers.values():
                layer.enable_adapters(not is_off)

    def train(self, training: bool) -> None:
        """Switch dropout on or off."""
        for layer in self._layers.values():
            # DoRA asks the layer itself whether it trains.
            layer.training = training
            layer.lora_dropout.train(training)

    def export(self, slot: int) -> Adapter:
        """The adapter as PEFT saves it."""
        named = {name: parameter.detach() for name, parameter in self.parameters(slot).items()}
        state = get_peft_model_state_dict(self._model, state_dict=named, adapter_name=ADAPTER)
        tensors = {f"{PREFIX}{name}": tensor.cpu().clone() for name, tensor in state.items()}
        bases = {name: layer.get_base_layer() for name, layer in self._layers.items()}
        shapes = {name: (base.out_features, base.in_features) for name, base in bases.items()}
        return Adapter(tensors, self._config, shapes)

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill the adapter from PEFT's tensors."""
        with torch.no_grad():
            for name, parameter in self.parameters(slot).items():
                saved = PREFIX + name.replace(f".{ADAPTER}.", ".")
                parameter.copy_(tensors[saved.removesuffix(".weight") if MAGNITUDE in name else saved])

    def _start_magnitudes(self) -> None:
        """DoRA's are the norms of the weight's rows."""
        for name, layer in self._layers.items():
            norms_O = torch.linalg.vector_norm(self._weights.held(name), dim=1)
            with torch.no_grad():
                layer.lora_magnitude_vector[ADAPTER].weight.copy_(norms_O)
