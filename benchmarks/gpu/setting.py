"""What is measured on what: a command's words enter, one setting for all of a script's cases leaves."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from time import perf_counter
from typing import Self

import torch


@dataclass(frozen=True)
class Setting:
    """What is measured on what.

    Args:
        device: On which.
        hidden: Hidden size of the base, a multiple of 128.
        layers: Its blocks.
        turns: Of each side that count.
        bits: Of a weight of the base: 4 is NF4 with double quantization, 16 the compute dtype.
        keeps_activations: Blocks do not run again in the backward pass.
        oversubscribes: Paged optimizers may ask the driver for more managed memory than is free.
        deadline_s: On the clock of `perf_counter`: no case begins after it.
    """

    device: torch.device
    hidden: int
    layers: int
    turns: int
    bits: int = 4
    keeps_activations: bool = False
    oversubscribes: bool = False
    deadline_s: float = math.inf

    @classmethod
    def of(cls, asked: argparse.Namespace) -> Self:
        """From a command's words; the time begins to run."""
        return cls(
            torch.device(asked.device),
            asked.hidden,
            asked.layers,
            asked.turns,
            asked.bits,
            asked.keep_activations,
            asked.oversubscribe,
            perf_counter() + 60 * asked.minutes,
        )

    @property
    def is_late(self) -> bool:
        """Whether no further case is to begin."""
        return perf_counter() > self.deadline_s

    @property
    def base_name(self) -> str:
        """Short words for its base."""
        return f"{self.hidden} wide, {self.layers} layers, {'NF4' if self.bits == 4 else 'not quantized'}"

    @property
    def words(self) -> str:
        """For people."""
        held = "NF4 with double quantization" if self.bits == 4 else "the compute dtype"
        again = "kept" if self.keeps_activations else "recomputed"
        return (
            f"A Llama of {self.layers} layers, {self.hidden} wide, random weights, in {held} where the table "
            f"names nothing else, activations {again}; {self.turns} turns."
        )
