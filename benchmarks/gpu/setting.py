"""What every script here takes, and what it leaves: a measure of a setting enters, JSON and a table leave."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from benchmarks.gpu.device import described


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
    """

    device: torch.device
    hidden: int
    layers: int
    turns: int
    bits: int = 4
    keeps_activations: bool = False

    @classmethod
    def of(cls, asked: argparse.Namespace) -> Self:
        """From a command's words."""
        return cls(
            torch.device(asked.device), asked.hidden, asked.layers, asked.turns, asked.bits, asked.keep_activations
        )

    @property
    def words(self) -> str:
        """For people."""
        held = "NF4 with double quantization" if self.bits == 4 else "the compute dtype"
        again = "kept" if self.keeps_activations else "recomputed"
        return (
            f"A Llama of {self.layers} layers, {self.hidden} wide, random weights, in {held} where the table "
            f"names nothing else, activations {again}; {self.turns} turns."
        )


@dataclass(frozen=True)
class Script:
    """One script.

    Args:
        name: Its module's, and that of its result.
        title: Above its result.
        claim: What it is to show, and the goal.
        measure: Its work.
        render: What came out, as Markdown with a table last.
        hidden: Hidden size where nobody says.
        layers: Blocks where nobody says.
        turns: Turns where nobody says.
    """

    name: str
    title: str
    claim: str
    measure: Callable[[Setting], dict[str, Any]]
    render: Callable[[Mapping[str, Any]], str]
    hidden: int
    layers: int
    turns: int

    def run(self) -> None:
        """Measure what the command line says, and print: JSON first, the table last."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu.{self.name}", description=self.claim)
        parser.add_argument("--device", default="cuda:0", help="cuda:1 or cpu, for example (default: cuda:0)")
        parser.add_argument("--hidden", type=int, default=self.hidden, help=f"hidden size (default: {self.hidden})")
        parser.add_argument("--layers", type=int, default=self.layers, help=f"blocks (default: {self.layers})")
        parser.add_argument("--turns", type=int, default=self.turns, help=f"that count (default: {self.turns})")
        parser.add_argument("--bits", type=int, default=4, choices=(4, 16), help="4 is NF4 (default: 4)")
        parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing")
        parser.add_argument("--out", type=Path, help="write the JSON object to this file as well")
        asked = parser.parse_args()
        setting = Setting.of(asked)
        if setting.device.type == "cuda":
            torch.cuda.set_device(setting.device)  # that of whoever names none, such as bitsandbytes
        found = {
            "benchmark": f"gpu_{self.name}",
            "machine": described(setting.device),
            "about": setting.words,
            "results": self.measure(setting),
        }
        text = json.dumps(found, indent=1)
        print(text)
        if asked.out:
            asked.out.write_text(text + "\n")
        print(self.words(found))

    def words(self, found: Mapping[str, Any]) -> str:
        """A result as Markdown: on what, then the table."""
        machine = found["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        return (
            f"{machine['date']}, {machine['device']}, {machine['gib']} GiB; {versions}. {found['about']}\n\n"
            f"{self.render(found['results'])}"
        )
