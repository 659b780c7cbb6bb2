"""One adapter in PEFT's own modules: LoRA to the letter of PEFT's arithmetic, or any other type that adapts layers.

They are put into the base where a slot is admitted, when it is filled and placed: types that start from its weights
find them, and no strategy takes their tensors for the base's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.peft_format import adapter_config, own_config, short_targets
from raylora.model.adapter.slot import Slot
from raylora.model.bank.peft_config import peft_config
from raylora.model.bank.peft_inject import ADAPTER, Injected, eject, inject
from raylora.model.base.base_weights import BaseWeights
from raylora.model.rows.route import NOBODY, Span
from raylora.model.rows.seed import stable_seed


class PeftBank:
    """PEFT's modules in a base; slot 0 alone.

    Args:
        model: The base, on the meta device or filled and placed; changed in place as the slot is admitted.
        base_name: Logical name and revision of the base, for the exported config.
        device: Where the parameters live.
        weights: As of the packed bank.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        base_name: tuple[str, str | None],
        device: torch.device,
        weights: BaseWeights | None = None,
    ) -> None:
        self._model, self._base_name, self._device = model, base_name, device
        self._weights, self._is_off = weights or BaseWeights(model), False
        self._injected: Injected | None = None
        self._config: dict[str, Any] = {}

    def admit(self, slot: int, settings: Slot, targets: Sequence[str]) -> None:
        """Make the adapter anew, in modules of its own."""
        self.release(slot)
        if settings.peft is None:
            config: PeftConfig = _lora(settings, targets)
            self._config = adapter_config(settings, short_targets(self._model, targets), self._base_name)
        else:
            config = peft_config(settings.peft)
        torch.manual_seed(stable_seed("start", settings.seed))
        self._injected = inject(self._model, config, self._weights, self._device)
        if settings.peft is not None:  # PEFT has filled in what the block left open
            self._config = own_config(config.to_dict(), self._base_name)

    def release(self, slot: int) -> None:
        """Take PEFT's modules out of the base."""
        if self._injected is not None:
            eject(self._model)
        self._injected, self._is_off = None, False

    def kind(self, slot: int) -> tuple[float, ...]:
        """There is one slot."""
        return ()

    def parameters(self, slot: int) -> dict[str, nn.Parameter]:
        """PEFT's parameters by their dotted names."""
        return {} if self._injected is None else dict(self._injected.trained)

    def frozen(self, slot: int) -> list[Tensor]:
        """What PEFT's modules hold and do not train, such as random projections."""
        return [] if self._injected is None else list(self._injected.beside.values())

    def route(self, spans: Sequence[Span]) -> None:
        """Go without the adapter where the tokens are nobody's; PEFT's dropout draws from what a step seeds."""
        is_off = any(span.slot == NOBODY for span in spans)
        if self._injected is not None and is_off != self._is_off:
            self._is_off = is_off
            self._injected.switch(not is_off)

    def train(self, training: bool) -> None:
        """Switch dropout on or off."""
        if self._injected is not None:
            self._injected.train(training)

    def export(self, slot: int) -> Adapter:
        """The adapter as PEFT saves it."""
        injected = self._made
        state = get_peft_model_state_dict(
            injected.holder, state_dict=injected.state, adapter_name=ADAPTER, save_embedding_layers=False
        )
        bases = {
            name: layer.get_base_layer() for name, layer in injected.layers.items() if hasattr(layer, "base_layer")
        }
        linears = {name: base for name, base in bases.items() if isinstance(base, nn.Linear)}
        shapes = {name: (linear.out_features, linear.in_features) for name, linear in linears.items()}
        return Adapter({name: tensor.to("cpu", copy=True) for name, tensor in state.items()}, self._config, shapes)

    def state(self, slot: int) -> Iterator[tuple[str, Tensor]]:
        """The adapter's own tensors: what PEFT saves of some types cannot be trained on."""
        return ((_kept_name(name), tensor) for name, tensor in self._made.state.items())

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill the adapter from what `state` gave, or `export` of a LoRA."""
        with torch.no_grad():
            for name, tensor in self._made.state.items():
                kept = _kept_name(name)
                tensor.copy_(tensors[kept if kept in tensors else kept.removesuffix(".weight")])

    @property
    def _made(self) -> Injected:
        assert self._injected is not None, "the slot was not admitted"
        return self._injected


def _kept_name(name: str) -> str:
    """A tensor's name in PEFT's files, whichever type it is of."""
    return name.replace(f".{ADAPTER}.", ".").removesuffix(f".{ADAPTER}")


def _lora(settings: Slot, targets: Sequence[str]) -> LoraConfig:
    """PEFT's config of a LoRA that was asked for in raylora's own fields."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT says int, and takes any number
        lora_dropout=settings.dropout,
        target_modules=list(targets),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        init_lora_weights=settings.init_lora_weights,  # type: ignore[arg-type]  # the spec's rules leave it a word of PEFT's
    )
