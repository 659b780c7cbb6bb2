"""One LoRA adapter in PEFT's own modules, for whoever wants PEFT's arithmetic to the letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from raylora.model.bank import Adapter
from raylora.model.low_rank import Slot
from raylora.model.peft_format import PREFIX, adapter_config, short_targets
from raylora.model.route import Span
from raylora.model.seed import stable_seed

ADAPTER = "default"


class PeftBank:
    """PEFT's LoRA modules injected into a base.

    Args:
        model: The base on the meta device, before it is filled; changed in place.
        targets: Dotted names of the linear layers that get an adapter.
        slot: The adapter's settings.
        base_name: Logical name and revision of the base, for the exported config.
        device: Where the parameters live.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[str],
        slot: Slot,
        base_name: tuple[str, str | None],
        device: torch.device,
    ) -> None:
        self._config = adapter_config(slot.r, slot.alpha, slot.dropout, short_targets(model, targets), base_name)
        config = LoraConfig(
            r=slot.r, lora_alpha=self._config["lora_alpha"], lora_dropout=slot.dropout, target_modules=list(targets)
        )
        self._model = inject_adapter_in_model(config, model, ADAPTER)
        self._layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        torch.manual_seed(stable_seed("start", slot.seed))
        for layer in self._layers:
            for matrix in (layer.lora_A, layer.lora_B):
                matrix.to_empty(device=device).float()
            layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)  # type: ignore[no-untyped-call]

    def admit(self, slot: int, settings: Slot, targets: Sequence[str]) -> None:
        """Nothing to do: the one adapter came with the bank, since PEFT's modules must be there before the weights."""

    def release(self, slot: int) -> None:
        """Nothing to do: PEFT's modules stay where they are."""

    def parameters(self, slot: int) -> dict[str, nn.Parameter]:
        """PEFT's matrices by their dotted names."""
        return {name: parameter for name, parameter in self._model.named_parameters() if parameter.requires_grad}

    def route(self, spans: Sequence[Span]) -> None:
        """Nothing to do: PEFT's dropout draws from torch's generator, which the step seeds."""

    def train(self, training: bool) -> None:
        """Switch dropout on or off."""
        for layer in self._layers:
            layer.lora_dropout.train(training)

    def export(self, slot: int) -> Adapter:
        """The adapter as PEFT saves it."""
        named = {name: parameter.detach() for name, parameter in self.parameters(slot).items()}
        state = get_peft_model_state_dict(self._model, state_dict=named, adapter_name=ADAPTER)
        tensors = {f"{PREFIX}{name}": tensor.cpu().clone() for name, tensor in state.items()}
        return Adapter(tensors, self._config)

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill the adapter from PEFT's tensors."""
        with torch.no_grad():
            for name, parameter in self.parameters(slot).items():
                parameter.copy_(tensors[PREFIX + name.replace(f".{ADAPTER}.", ".")])
