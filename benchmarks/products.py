"""The machine's own float32 matrix products, by two kernels: the rates that a training step is held against.

``torch.mm`` is what users know as the machine's rate; it calls MKL. ``oneDNN`` is what raylora's frozen layers call
(``raylora/model/base/product.py``); on an AMD CPU with AVX-512 it is the faster one. Goals are held against both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from raylora.model.base.product import frozen_product

SQUARE = 2048
AT_LEAST_S = 1.0
Product = tuple[Tensor, Tensor, Tensor]
"""Left side, the right side as (outputs, inputs), and where the result may go."""
Rates = Mapping[str, Mapping[str, float]]
"""Operations a second by kernel, and under it by shapes."""


def _mm(left: Tensor, right: Tensor, out: Tensor) -> None:
    torch.mm(left, right.t(), out=out)  # into memory that is there already


def _onednn(left: Tensor, right: Tensor, out: Tensor) -> None:
    frozen_product(left, right)  # makes its result anew, in every step too


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {"torch.mm": _mm, "oneDNN": _onednn}


def rates(base: Path, num_tokens: int, at_least_s: float = AT_LEAST_S, square: int = SQUARE) -> Rates:
    """Measure both kernels, on the model's shapes and on large squares.

    Args:
        base: Folder of the base.
        num_tokens: Of one forward pass.
        at_least_s: How long each of the four is measured.
        square: Rows and columns of the large ones.
    """
    shapes = {"model_shapes": model_products(base, num_tokens), "large_squares": _products(square, square, square)}
    return {
        kernel: {name: _rate(multiply, products, at_least_s) for name, products in shapes.items()}
        for kernel, multiply in KERNELS.items()
    }


def model_products(base: Path, num_tokens: int) -> list[Product]:
    """Forward and input gradient of each linear layer of a block and of the head, each as often as in a step."""
    config = json.loads((base / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_size = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, key = config["num_attention_heads"] * head_size, config["num_key_value_heads"] * head_size
    shapes = [(hidden, query), (hidden, key), (hidden, key), (query, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    block = [product for shape in shapes for product in _products(num_tokens, *shape)]
    return block * config["num_hidden_layers"] + _products(num_tokens, hidden, config["vocab_size"])


def _products(num_rows: int, num_inputs: int, num_outputs: int) -> list[Product]:
    """A layer's forward product and the one towards its input; the weight lies as a layer holds it."""
    weight_OI = torch.randn(num_outputs, num_inputs)
    x_NI, y_NO = torch.randn(num_rows, num_inputs), torch.randn(num_rows, num_outputs)
    return [(x_NI, weight_OI, torch.empty_like(y_NO)), (y_NO, weight_OI.t(), torch.empty_like(x_NI))]


def _rate(multiply: Callable[[Tensor, Tensor, Tensor], None], products: list[Product], at_least_s: float) -> float:
    flops, start = 0, perf_counter()
    while perf_counter() - start < at_least_s:
        for left, right, out in products:
            multiply(left, right, out)
            flops += 2 * left.shape[0] * left.shape[1] * right.shape[0]
    return flops / (perf_counter() - start)
