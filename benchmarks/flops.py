"""The floating-point operations that a training step of LoRA over a frozen base needs, counted by hand.

A matrix product of (N, I) and (I, O) is 2 N I O. Only products count: no norm, softmax, unpacking or optimizer. Only
what the mathematics needs counts: no attention to what the mask hides, no head on tokens without a label, no gradient
towards the embedding, which is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.workload import LORA_R
from raylora.data.collate import Batch
from raylora.train.build import Trainee


def step_flops(trainee: Trainee, batches: Sequence[Batch]) -> int:
    """Operations of one forward and backward of every micro-batch; padding that was multiplied counts."""
    return sum(_linear_flops(trainee, batch) + _head_flops(trainee, batch) + _attention_flops(trainee, batch)
               for batch in batches)  # fmt: skip


def _linear_flops(trainee: Trainee, batch: Batch) -> int:
    num_tokens = batch.input_ids_BT.numel()
    fed_by_embedding = _first_inputs(trainee)
    total = 0
    for name, layer in _linear_layers(trainee):
        size, sides = layer.in_features * layer.out_features, layer.in_features + layer.out_features
        # Forward: x W, x A and h B. Backward: g W and h A towards the input, g B towards h, both adapter gradients.
        if name in fed_by_embedding:
            total += 2 * num_tokens * (size + LORA_R * (3 * sides - layer.in_features))
        else:
            total += 2 * num_tokens * (2 * size + LORA_R * 3 * sides)
    return total


def _head_flops(trainee: Trainee, batch: Batch) -> int:
    head: nn.Linear = trainee.model.get_output_embeddings()
    return 2 * 2 * batch.num_label_tokens * head.in_features * head.out_features


def _attention_flops(trainee: Trainee, batch: Batch) -> int:
    """Seven products over the pairs a token may attend to: two forward, five backward (it recomputes the scores)."""
    config = trainee.model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = 0
    for segments_T in batch.segment_ids_BT:
        lengths = torch.bincount(segments_T)
        alone = len(lengths) <= 2 and bool((segments_T == 1).any())
        # A row alone on its line runs to the line's end, padding and all: no mask is passed.
        spans = torch.tensor([len(segments_T)]) if alone else lengths
        pairs += int((spans * (spans + 1) // 2).sum())
    return 7 * 2 * pairs * head_size * config.num_attention_heads * config.num_hidden_layers


def _linear_layers(trainee: Trainee) -> list[tuple[str, nn.Linear]]:
    head = trainee.model.get_output_embeddings()
    return [
        (name, module)
        for name, module in trainee.model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def _first_inputs(trainee: Trainee) -> set[str]:
    """The layers of the first block that read the embedding: no gradient flows further."""
    first = _linear_layers(trainee)[0][0].rpartition(".")[0]
    return {f"{first}.{name}" for name in ("q_proj", "k_proj", "v_proj")}
