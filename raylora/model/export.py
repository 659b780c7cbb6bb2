"""An adapter as files that PEFT, vLLM and others read, published with a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from raylora.errors import RunFailedError
from raylora.model.bank import Adapter
from raylora.model.peft_format import MAGNITUDE
from raylora.store.contract import Store
from raylora.store.manifest import publish

FOLDER = "adapter"


def adapter_files(adapter: Adapter) -> dict[str, bytes]:
    """The files of an adapter by name.

    Raises:
        RunFailedError: A tensor is empty, is of another shape than the rank asks for, or holds NaN or Inf; nothing
            should be kept of such an adapter.
    """
    rank = adapter.config["r"]
    tensors = adapter.tensors.items()
    broken = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors if _is_broken(name, tensor, rank)]
    if broken or not adapter.tensors:
        raise RunFailedError(
            f"adapter: {len(broken)} of {len(adapter.tensors)} tensors are empty, of a wrong shape, or not finite: "
            f"{', '.join(broken[:5])}; it was not kept. Lower learning_rate, or set max_grad_norm"
        )
    return {
        "adapter_model.safetensors": safetensors.torch.save(adapter.tensors, {"format": "pt"}),
        "adapter_config.json": json.dumps(adapter.config, indent=2).encode(),
    }


def _is_broken(name: str, tensor: Tensor, rank: int) -> bool:
    return not _has_shape(name, tensor, rank) or tensor.numel() == 0 or not bool(torch.isfinite(tensor).all())


def _has_shape(name: str, tensor: Tensor, rank: int) -> bool:
    """A matrix has the rank on its one side, a magnitude is one number for each row of the weight."""
    if name.endswith(MAGNITUDE):
        return tensor.ndim == 1
    return tensor.ndim == 2 and tensor.shape[0 if ".lora_A." in name else 1] == rank


def publish_adapter(store: Store, adapter: Adapter, about: Mapping[str, Any]) -> str:
    """Write an adapter into a run's store.

    Args:
        store: The run's own store.
        adapter: What was trained.
        about: Lineage, kept in the manifest.

    Returns:
        The URI of its folder.

    Raises:
        RunFailedError: The adapter is broken.
    """
    return publish(store, FOLDER, adapter_files(adapter), about)
