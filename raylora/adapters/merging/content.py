"""What an adapter is to merging, whatever computes it: matrices of its layers, or PEFT's own modules.

A stored adapter and its base enter; what it changes, and what base and adapter compute together, leave. Called by the
command `merge`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raylora.adapters.delta import Layers
from raylora.adapters.merging.check import Wanted, wanted_logits
from raylora.adapters.merging.plan import Change
from raylora.adapters.merging.rounding import Holding
from raylora.adapters.stored import StoredAdapter
from raylora.model.source.source import BaseFolder


class Content(Protocol):
    """An adapter, to be merged."""

    @property
    def layers(self) -> Collection[str]:
        """Dotted names of the layers that it adapts."""

    @property
    def changes(self) -> Mapping[str, Change]:
        """What it changes."""

    def wanted(self, rounding: Holding | None) -> Wanted:
        """Run base and adapter over the prompts of the check, in float32; called once.

        Args:
            rounding: How to round the base's linear layers but the head first.

        Raises:
            ModelError: The base has no tokenizer that can be loaded, or cannot be loaded itself.
            RunFailedError: The tokenizer makes no tokens of a text.
        """


@dataclass(frozen=True)
class Matrices:
    """A low-rank adapter, as of `Content`.

    Args:
        layers: What it does to each.
        base: Folder of the base.
    """

    layers: Layers
    base: Path

    @property
    def changes(self) -> Mapping[str, Change]:
        """What it does to each layer."""
        return self.layers

    def wanted(self, rounding: Holding | None) -> Wanted:
        """As of `Content`."""
        return wanted_logits(self.layers, self.base, rounding)


def content_of(adapter: StoredAdapter, layers: Layers | None, base: BaseFolder) -> Content:
    """Make ready what is merged.

    Args:
        adapter: As it is stored.
        layers: Its matrices; ``None`` where PEFT's own modules compute it.
        base: What it is merged into.

    Raises:
        ModelError: PEFT cannot put it on the base, or cannot merge it.
    """
    if layers is not None:
        return Matrices(layers, base.path)
    from raylora.adapters.merging.by_peft import PeftMerge  # seconds of import that only these adapters need

    return PeftMerge(adapter, base)
