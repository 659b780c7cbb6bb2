"""Which adapter is trained, where it sits and through which bank."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.spec.fields import Fraction, Part, PositiveFloat, PositiveInt, Text


class AdapterFields(Part):
    """A low-rank adapter: W stays frozen, W + (lora_alpha / lora_r) B A is what runs."""

    adapter: Literal["lora"] = "lora"
    """Kind of adapter."""

    adapter_bank: Literal["packed", "peft"] = "packed"
    """What holds the adapter: Low-rank layers of raylora's, or PEFT's own modules."""

    lora_r: PositiveInt = 16
    """Rank of the update; at most the smaller side of each target matrix."""

    lora_alpha: PositiveFloat = 32.0
    """Scale of the update is `lora_alpha / lora_r`; twice the rank is the usual start."""

    lora_dropout: Fraction = 0.0
    """Probability of dropping an input of the adapter in training."""

    lora_target_modules: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = "all-linear"
    """Names (or dotted suffixes) of the linear layers that get an adapter, a regular expression for the whole dotted name, or `all-linear` for all but the output head."""
