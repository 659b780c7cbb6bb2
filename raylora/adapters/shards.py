"""Tensors as safetensors files of bounded size, with the index by which transformers and vLLM find them.

Names, sizes and a reader enter; files leave. One file's tensors are in memory at a time. Called by merging and
`publish_model`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from raylora.model.base.folder import INDEX

SINGLE = "model.safetensors"


def cut(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Deal tensors out to files, in their order.

    Args:
        sizes: Bytes of each tensor.
        max_bytes: Most bytes of tensors in a file; a larger tensor has one for itself.

    Returns:
        The names of each file's tensors.
    """
    shards: list[list[str]] = []
    left = 0
    for name, num_bytes in sizes.items():
        if not shards or num_bytes > left:
            shards.append([])
            left = max_bytes
        shards[-1].append(name)
        left -= num_bytes
    return shards


def write_shards(folder: Path, sizes: Mapping[str, int], max_bytes: int, read: Callable[[str], Tensor]) -> list[str]:
    """Write tensors, and an index where they make more than one file.

    Args:
        folder: Where to; without weights yet.
        sizes: Bytes of each tensor as `read` gives it.
        max_bytes: As for :func:`cut`.
        read: Gives a tensor by name; called once for each, in their order.

    Returns:
        Names of the weight files.
    """
    shards = cut(sizes, max_bytes)
    files = [SINGLE]
    if len(shards) > 1:
        files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for file, names in zip(files, shards, strict=True):
        _write(folder / file, names, read)
    if len(files) > 1:
        places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _write(file: Path, names: Sequence[str], read: Callable[[str], Tensor]) -> None:
    # A function of its own: when it returns, its tensors are gone before the next file's are read.
    file.touch()
    mode = file.stat().st_mode
    save_file({name: read(name) for name in names}, file, {"format": "pt"})
    file.chmod(mode)  # safetensors makes files for their owner alone, and servers run as others
