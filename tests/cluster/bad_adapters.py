"""Adapters that no server should load, made of a good one, and the commands that are not to take them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.cluster.undisturbed import ADAPTER

DAMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "empty": lambda tensor: tensor[:0],
    "1-D": torch.flatten,
    "NaN": lambda tensor: torch.full_like(tensor, torch.nan),
    "of another rank": lambda tensor: tensor[:, :-1].contiguous(),
    "for another base": lambda tensor: tensor[:-1].contiguous(),
}
NEEDS_ITS_BASE = "for another base"
"""Of these, the one that is not seen in the adapter's own files."""
WITH_ITS_BASE = {
    "merge": ("merge", "bad", "--out", "made"),
    "combine": ("combine", "good", "bad", "--method", "linear", "--out", "made"),
    "generate": ("generate", "bad", "--prompt", "hi"),
}
BY_ITSELF = {
    "export for vllm": ("export", "bad", "--for", "vllm", "--out", "made"),
    "export for peft": ("export", "bad", "--for", "peft", "--out", "made"),
}
REFUSED = "Copy the folder again"
"""What is said of those whose own files show it."""


def copy_twice(trained: Path, folder: Path) -> None:
    """Lay an adapter as it was trained into a folder, as `good` and `bad`, as ones that come from elsewhere.

    Args:
        trained: Its files; a manifest is not copied.
        folder: Where the commands are to run.
    """
    for name in ("good", "bad"):
        shutil.copytree(trained, folder / name, ignore=shutil.ignore_patterns("manifest.json", "*writer*"))


def spoil(folder: Path, damage: str) -> None:
    """Damage one tensor of an adapter, and leave the file whole.

    Args:
        folder: Of the adapter.
        damage: One of `DAMAGE`.
    """
    tensors = load_file(folder / ADAPTER)
    name = next(name for name in tensors if "lora_B" in name)
    save_file(tensors | {name: DAMAGE[damage](tensors[name])}, folder / ADAPTER)
