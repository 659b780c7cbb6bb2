"""Products with a 4-bit row that is not unpacked first, in the place of ours: bitsandbytes' choice by number of rows.

`QuantLinear` always unpacks its weight and multiplies by torch's own product, whatever the number of rows.
bitsandbytes has a kernel that unpacks on the way, and takes it at few rows: a slot's rows may then meet another kernel
alone than in a pack. Called by the scripts that measure what that would be worth, and what it costs in exactness.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import bitsandbytes as bnb
import torch
from torch import Tensor

from benchmarks.gpu.taken_apart import in_place_of
from raylora.model.adapter import low_rank
from raylora.model.base import frozen_linear
from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.base.product import frozen_product
from raylora.model.base.quant import BLOCK


def product_of_row(x_NI: Tensor, layer: QuantLinear, held: Tensor) -> Tensor:
    """``x @ weight.T`` by whichever kernel bitsandbytes takes.

    Args:
        x_NI: Rows in the dtype of the product.
        layer: In 4 bits, its inputs a multiple of 64, without a bias.
        held: What it holds.

    Shapes:
        x_NI: (N, I). Returns (N, O).
    """
    values, state = layer.format.state_4bit(held, layer.shape, x_NI.dtype)
    product: Tensor = bnb.matmul_4bit(x_NI, values, state)
    return product


@contextmanager
def chosen_by_rows() -> Iterator[None]:
    """Let bitsandbytes choose the kernel of forward products with 4-bit weights, as in its own layers.

    Backward it always unpacks, as ours do.
    """
    with (
        in_place_of(QuantLinear, "whole", _packed_where_it_can_be),
        in_place_of(low_rank, "frozen_product", _product),
        in_place_of(frozen_linear, "frozen_product", _product),
    ):
        yield


_plain_whole = QuantLinear.whole


@dataclass(frozen=True)
class _Packed:
    """A weight that is unpacked only for who asks for its transpose, as the backward product does."""

    layer: QuantLinear
    held: Tensor
    dtype: torch.dtype

    def t(self) -> Tensor:
        return _plain_whole(self.layer, self.held, self.dtype).t()


def _packed_where_it_can_be(layer: QuantLinear, held: Tensor, dtype: torch.dtype) -> Tensor | _Packed:
    in_blocks = layer.format.kind != "int8" and layer.in_features % BLOCK == 0
    can_be = in_blocks and layer.bias is None and not held.is_meta
    return _Packed(layer, held, dtype) if can_be else _plain_whole(layer, held, dtype)


def _product(x_NI: Tensor, weight_OI: Tensor | _Packed, bias_O: Tensor | None = None) -> Tensor:
    if isinstance(weight_OI, _Packed):
        return product_of_row(x_NI, weight_OI.layer, weight_OI.held)
    return frozen_product(x_NI, weight_OI, bias_O)
