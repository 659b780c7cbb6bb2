"""A base as it is stored, parameter by parameter and block by block: shapes alone, no weights.

A base on the meta device enters; counts leave. Called by `estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.base.load import blocks


@dataclass(frozen=True)
class StoredParameter:
    """One parameter of the base as it is stored.

    Args:
        name: Dotted.
        shape: As stored: a packed row has one dimension.
        itemsize: Bytes of one stored value.
        num_parameters: Values that it stands for.
        scales_start: Byte from which its row holds scales; its whole length where it has none.
    """

    name: str
    shape: tuple[int, ...]
    itemsize: int
    num_parameters: int
    scales_start: int

    @property
    def num_bytes(self) -> int:
        """Stored bytes."""
        return math.prod(self.shape) * self.itemsize


def stored_parameters(model: PreTrainedModel) -> Iterator[StoredParameter]:
    """Parameters of a base, each once.

    Args:
        model: From `base_on_meta`, without an adapter.
    """
    seen: set[nn.Parameter] = set()  # a tied weight is held once
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            num_parameters, scales_start = parameter.numel(), parameter.numel() * parameter.element_size()
            if isinstance(module, QuantLinear) and leaf == "packed":
                num_parameters = math.prod(module.shape)
                scales_start = module.format.segments(module.shape)["values"]
            yield StoredParameter(
                f"{path}.{leaf}", tuple(parameter.shape), parameter.element_size(), num_parameters, scales_start
            )


def by_block(model: PreTrainedModel, stored: list[StoredParameter]) -> tuple[list[int], list[int]]:
    """Whole bytes of each block, and of each parameter that no block holds.

    Args:
        model: The base.
        stored: Its parameters.
    """
    of_blocks = dict.fromkeys(blocks(model), 0)
    root: list[int] = []
    for parameter in stored:
        block = next((name for name in of_blocks if parameter.name.startswith(f"{name}.")), None)
        if block is None:
            root.append(parameter.num_bytes)
        else:
            of_blocks[block] += parameter.num_bytes
    return list(of_blocks.values()), root
