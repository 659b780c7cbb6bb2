"""Adapters of a ``peft:`` block as a run publishes them, with random values where something trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raylora.model.export import publish_adapter
from raylora.store.blob import open_store
from tests.unit.train.tiny_run import build_tiny, tiny_spec

WEAK = ("C3A", "HIRA", "PVERA", "UNILORA", "VERA")
"""Types whose values are multiplied by small ones, so that it takes larger ones to be heard."""


def publish_block(base: Path, folder: Path, block: Mapping[str, Any]) -> str:
    """Publish an adapter that changes what a base answers; returns the URI."""
    trainee = build_tiny(tiny_spec(base, folder / "none", lora_r=16, lora_alpha=32, peft=dict(block)))
    torch.manual_seed(3)
    for parameter in trainee.bank.parameters(0).values():
        parameter.data.add_(torch.randn_like(parameter) * (1.0 if block["peft_type"] in WEAK else 0.1))
    return publish_adapter(open_store(str(folder)), trainee.bank.export(0), {})
