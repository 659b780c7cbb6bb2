"""An adapter as files that PEFT, vLLM and others read, published with a manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from raylora.errors import RunFailedError
from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.peft_format import MAGNITUDE, PREFIX, of_pattern
from raylora.store.contract import Store
from raylora.store.manifest import publish

FOLDER = "adapter"

Shape = tuple[int | None, ...]
"""Sides of a tensor; ``None`` for one of any length."""

SHAPED = ("LORA", "VERA", "ADALORA")
"""PEFT's types whose tensors' shapes follow from the rank and the layer."""


def adapter_files(adapter: Adapter) -> dict[str, bytes]:
    """The files of an adapter by name.

    Raises:
        RunFailedError: A tensor is empty, is of another shape than the rank and the layer ask for, or holds NaN or Inf;
            nothing should be kept of such an adapter.
    """
    tensors = adapter.tensors.items()
    broken = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors if _is_broken(tensor, _shape(adapter, name))]
    if broken or not adapter.tensors:
        raise RunFailedError(
            f"adapter: {len(broken)} of {len(adapter.tensors)} tensors are empty, of a wrong shape, or not finite: "
            f"{', '.join(broken[:5])}; it was not kept. Lower learning_rate, or set max_grad_norm"
        )
    return {
        "adapter_model.safetensors": safetensors.torch.save(adapter.tensors, {"format": "pt"}),
        "adapter_config.json": json.dumps(adapter.config, indent=2).encode(),
    }


def _is_broken(tensor: Tensor, shape: Shape | None) -> bool:
    if shape is None:
        return tensor.numel() == 0 or not bool(torch.isfinite(tensor).all())
    has_shape = tensor.ndim == len(shape) and all(
        side is None or side == size for side, size in zip(shape, tensor.shape, strict=True)
    )
    return not has_shape or (tensor.numel() == 0 and 0 not in shape) or not bool(torch.isfinite(tensor).all())


def _shape(adapter: Adapter, name: str) -> Shape | None:
    """What a tensor must be: A (R, I), B (O, R), magnitudes (O), with the sides of its layer where they are known.

    Of VeRA's vectors one is (R) and one (O), AdaLoRA's values are (R, 1). ``None`` for a head's tensors, and for those
    that only PEFT knows.
    """
    if adapter.config.get("peft_type") not in SHAPED:
        return None
    layer, *rest = re.split(r"\.(?:lora|vera)_", name.removeprefix(PREFIX))
    if not rest:
        return None
    matrix = name.removeprefix(f"{PREFIX}{layer}.").removesuffix(".weight")
    rank = _rank(adapter.config, layer)
    num_outputs, num_inputs = adapter.layers.get(layer, (None, None))
    shapes: dict[str, Shape] = {
        "lora_A": (rank, num_inputs),
        "lora_B": (num_outputs, rank),
        "lora_E": (rank, 1),
        "vera_lambda_d": (rank,),
        "vera_lambda_b": (num_outputs,),
        MAGNITUDE: (num_outputs,),
    }
    return shapes.get(matrix)


def _rank(config: Mapping[str, Any], layer: str) -> int:
    """A layer's rank; AdaLoRA's pattern says of each rank whether it is left, and none may be."""
    pattern = config.get("rank_pattern")
    if config.get("peft_type") != "ADALORA":
        return int(of_pattern(pattern, layer, config["r"]))
    return int(sum(pattern[f"{layer}.lora_E"]) if pattern else config["init_r"])


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
