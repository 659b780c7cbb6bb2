"""The machine's own float32 matrix products: the rate that a training step is held against.

Started by `sides.py` with the path of a workload. The products go into memory that is there already.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.player import Player, play
from benchmarks.workload import Workload

SQUARE = 2048
AT_LEAST_S = 1.0
Product = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def main(player: Player) -> None:
    """Measure both rates once a turn."""
    work = Workload.read(sys.argv[1])
    torch.set_num_threads(work.num_threads)
    products = _model_products(work)
    square = _products(SQUARE, SQUARE, SQUARE)
    player.tell()
    while player.wait():
        player.tell(model_flops_per_s=_rate(products), square_flops_per_s=_rate(square))


def _model_products(work: Workload) -> list[Product]:
    """Forward and input gradient of each linear layer of a block and of the head, each as often as in a step."""
    config = json.loads(Path(work.base, "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_size = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, key = config["num_attention_heads"] * head_size, config["num_key_value_heads"] * head_size
    shapes = [(hidden, query), (hidden, key), (hidden, key), (query, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    num_tokens = work.micro_batch_rows * work.options["row_tokens"]
    block = [product for shape in shapes for product in _products(num_tokens, *shape)]
    return block * config["num_hidden_layers"] + _products(num_tokens, hidden, config["vocab_size"])


def _products(num_rows: int, num_inputs: int, num_outputs: int) -> list[Product]:
    """A layer's forward product and the one towards its input; the weight lies as a layer holds it."""
    weight_OI = torch.randn(num_outputs, num_inputs)
    x_NI, y_NO = torch.randn(num_rows, num_inputs), torch.randn(num_rows, num_outputs)
    return [(x_NI, weight_OI.t(), torch.empty_like(y_NO)), (y_NO, weight_OI, torch.empty_like(x_NI))]


def _rate(products: list[Product]) -> float:
    flops, start = 0, perf_counter()
    while perf_counter() - start < AT_LEAST_S:
        for left, right, out in products:
            torch.mm(left, right, out=out)
            flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
    return flops / (perf_counter() - start)


if __name__ == "__main__":
    play(main)
