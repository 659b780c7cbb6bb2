"""A script: its command line, the JSON that grows with every case, and the table that comes last."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.attempt import failures
from benchmarks.gpu.claim import Claim
from benchmarks.gpu.device import described
from benchmarks.gpu.setting import Setting

MINUTES = 8.0
"""After which no further case begins: a run is to end within ten."""


@dataclass(frozen=True)
class Script:
    """One script.

    Args:
        name: Its module's, and that of its result.
        title: Above its result.
        about: What it measures, in a sentence.
        claims: What it is to show.
        measure: Its work: what was found so far, told whenever a case has ended, its ``cases`` by name.
        render: What came out, as Markdown with a table last.
        hidden: Hidden size where nobody says.
        layers: Blocks where nobody says.
        turns: Turns where nobody says.
    """

    name: str
    title: str
    about: str
    claims: tuple[Claim, ...]
    measure: Callable[[Setting], Iterator[dict[str, Any]]]
    render: Callable[[Mapping[str, Any]], str]
    hidden: int
    layers: int
    turns: int

    def run(self) -> None:
        """Measure what the command line says, and print: JSON first, the table last.

        Raises:
            SystemExit: A case failed, otherwise than for want of memory or time.
        """
        asked = self._parser().parse_args()
        setting = Setting.of(asked)
        if setting.device.type == "cuda":
            torch.cuda.set_device(setting.device)  # that of whoever names none, such as bitsandbytes
        found: dict[str, Any] = {
            "benchmark": f"gpu_{self.name}",
            "machine": described(setting.device),
            "about": setting.words,
        }
        text = ""
        for results in self.measure(setting):
            text = json.dumps(found | {"results": results}, indent=1)
            if asked.out:  # at once: whoever stops the run has what it found
                asked.out.write_text(text + "\n")
        print(text)
        found = json.loads(text)  # as whoever reads the file sees it
        print(self.words(found))
        if failed := failures(found["results"]["cases"]):
            sys.exit(f"{self.name}: failed: {failed}")

    def words(self, found: Mapping[str, Any]) -> str:
        """A result as Markdown: on what, then the table."""
        machine = found["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        return (
            f"{machine['date']}, {machine['device']}, {machine['gib']} GiB; {versions}. {found['about']}\n\n"
            f"{self.render(found['results'])}"
        )

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu.{self.name}", description=self.about)
        parser.add_argument("--device", default="cuda:0", help="cuda:1 or cpu, for example (default: cuda:0)")
        parser.add_argument("--hidden", type=int, default=self.hidden, help=f"hidden size (default: {self.hidden})")
        parser.add_argument("--layers", type=int, default=self.layers, help=f"blocks (default: {self.layers})")
        parser.add_argument("--turns", type=int, default=self.turns, help=f"that count (default: {self.turns})")
        parser.add_argument("--bits", type=int, default=4, choices=(4, 16), help="4 is NF4; packing and solo take both")
        parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing")
        parser.add_argument("--oversubscribe", action="store_true", help="let paged optimizers page (paging)")
        parser.add_argument("--minutes", type=float, default=MINUTES, help=f"begin no case later (default: {MINUTES})")
        parser.add_argument("--out", type=Path, help="write the JSON object to this file as well, after every case")
        return parser
