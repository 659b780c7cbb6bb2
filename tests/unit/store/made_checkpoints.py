"""Checkpoints of a few values, and damage to them."""

from __future__ import annotations

import torch

from raylora.store.blob import Store
from raylora.store.checkpoint import Checkpoint


def at_step(step: int) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((4, 4), float(step))}, {"step": step, "nested": {"rows": [1, 2]}})


def damage(store: Store, step: int, name: str = "state.safetensors") -> None:
    store.write(f"checkpoints/step-{step:08d}/{name}", b"damaged")
