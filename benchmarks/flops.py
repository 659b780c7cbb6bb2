"""The floating-point operations that a training step of LoRA over a frozen base needs, counted by hand.

A matrix product of (N, I) and (I, O) is 2 N I O. Only products count: no norm, softmax, unpacking or optimizer. Only
what the mathematics needs counts: no attention to what the mask hides, no head on tokens without a label, no gradient
towards the embedding, which is frozen. A pack needs what its slots need alone: the base's products are shared by
nobody, for each token takes part in one slot only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from raylora.data.collate import Batch
from raylora.data.flat import flatten
from raylora.train.step import Share
from raylora.train.trainee import Trainee


def step_flops(trainee: Trainee, shares: Sequence[Share]) -> int:
    """Operations of one forward and backward of every micro-batch of every slot.

    Rows that lie one after the other count without padding; on padded lines, padding that was multiplied counts.
    """
    return sum(_slot_flops(trainee, share.slot, share.batches) for share in shares)


def _slot_flops(trainee: Trainee, slot: int, batches: Sequence[Batch]) -> int:
    layers, ranks = _linear_layers(trainee), _ranks(trainee, slot)
    fed_by_embedding = _first_inputs(trainee)
    linear = sum(_linear_flops(layer, ranks.get(name, 0), name in fed_by_embedding) for name, layer in layers.items())
    return sum(
        _num_multiplied(trainee, batch) * linear + _head_flops(trainee, batch) + _attention_flops(trainee, batch)
        for batch in batches
    )


def _linear_flops(layer: nn.Linear, rank: int, is_fed_by_embedding: bool) -> int:
    """Operations of one token in one layer.

    Forward: x W, x A and h B. Backward: g W and h A towards the input, g B towards h, both adapter gradients.
    """
    size, sides = layer.in_features * layer.out_features, layer.in_features + layer.out_features
    if is_fed_by_embedding:
        return 2 * (size + rank * (3 * sides - layer.in_features))
    return 2 * (2 * size + rank * 3 * sides)


def _head_flops(trainee: Trainee, batch: Batch) -> int:
    head: nn.Linear = trainee.model.get_output_embeddings()
    return 2 * 2 * batch.num_label_tokens * head.in_features * head.out_features


def _attention_flops(trainee: Trainee, batch: Batch) -> int:
    """Seven products over the pairs a token may attend to: two forward, five backward (it recomputes the scores)."""
    config = trainee.model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = sum(length * (length + 1) // 2 for length in _lengths(trainee, batch))
    return 7 * 2 * pairs * head_size * config.num_attention_heads * config.num_hidden_layers


def _num_multiplied(trainee: Trainee, batch: Batch) -> int:
    return batch.input_ids_BT.numel() if trainee.why_padded else sum(_lengths(trainee, batch))


def _lengths(trainee: Trainee, batch: Batch) -> tuple[int, ...]:
    """Tokens of each stretch within which tokens attend to those before them."""
    if not trainee.why_padded:
        return flatten(batch).row_lengths
    lengths: list[int] = []
    for segments_T in batch.segment_ids_BT:
        counted = torch.bincount(segments_T)
        alone = len(counted) <= 2 and bool((segments_T == 1).any())
        # A row alone on its line runs to the line's end, padding and all: no mask is passed.
        lengths += [len(segments_T)] if alone else counted.tolist()
    return tuple(lengths)


def _linear_layers(trainee: Trainee) -> Mapping[str, nn.Linear]:
    head = trainee.model.get_output_embeddings()
    return {
        name: module
        for name, module in trainee.model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _ranks(trainee: Trainee, slot: int) -> Mapping[str, int]:
    """The rank of a slot's adapter by the layer it is on."""
    matrices = trainee.bank.parameters(slot)
    suffix = ".lora_A"
    return {name.removesuffix(suffix): len(a_RI) for name, a_RI in matrices.items() if name.endswith(suffix)}


def _first_inputs(trainee: Trainee) -> set[str]:
    """The layers of the first block that read the embedding: no gradient flows further."""
    first = next(iter(_linear_layers(trainee))).rpartition(".")[0]
    return {f"{first}.{name}" for name in ("q_proj", "k_proj", "v_proj")}
