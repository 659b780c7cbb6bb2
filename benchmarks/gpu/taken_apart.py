"""A pack's step without one of what its slots share: the same numbers by other calls, to time what sharing is worth.

Each context puts another function in the place of one that the low-rank layers call, and the old one back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from raylora.model.adapter import low_rank
from raylora.model.base.frozen_linear import QuantLinear

Without = Callable[[int], Any]
"""Number of slots -> a context."""


@contextmanager
def low_rank_products_apart(num_slots: int) -> Iterator[None]:
    """Every slot's two small products are calls of their own, not batched with those of slots that are alike."""
    with in_place_of(low_rank, "likeness", lambda update, num_tokens, dtype: None):
        yield


@contextmanager
def unpacked_for_each(num_slots: int) -> Iterator[None]:
    """A weight in 4 bits is unpacked as often as slots would alone."""
    plain = QuantLinear.whole

    def whole(layer: QuantLinear, held: Tensor, dtype: torch.dtype) -> Tensor:
        for _ in range(num_slots - 1):
            plain(layer, held, dtype)
        return plain(layer, held, dtype)

    with in_place_of(QuantLinear, "whole", whole):
        yield


@contextmanager
def base_products_apart(num_slots: int) -> Iterator[None]:
    """The product with the frozen weight is one call for each slot's rows."""
    plain = low_rank.frozen_product

    def product(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        return torch.cat([plain(rows_NI, weight_OI, bias_O) for rows_NI in x_NI.chunk(num_slots)])

    with in_place_of(low_rank, "frozen_product", product):
        yield


@contextmanager
def all_apart(num_slots: int) -> Iterator[None]:
    """All three: what is left is one pass with one launch of whatever goes token by token, one head, one Python."""
    with ExitStack() as together:
        for without in (low_rank_products_apart, unpacked_for_each, base_products_apart):
            together.enter_context(without(num_slots))
        yield


@contextmanager
def in_place_of(owner: Any, name: str, other: Callable[..., Any]) -> Iterator[None]:
    """Call another function for as long as this runs.

    Args:
        owner: Class or module.
        name: Of the function there.
        other: The other one.
    """
    before = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, before)
