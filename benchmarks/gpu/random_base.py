"""A Llama-shaped base in NF4 with random weights, made on the device itself: nothing is downloaded or written."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig

from raylora.model.bins import why_not_binned
from raylora.model.dtype import compute_dtype
from raylora.model.frozen_linear import QuantLinear
from raylora.model.load import base_on_meta
from raylora.model.row_attention import attend_by_rows
from raylora.objectives.token_losses import TokenLosses
from raylora.spec.run import RunSpec
from raylora.strategy.choose import choose_strategy
from raylora.train.build import make_bank, recompute_activations
from raylora.train.ranks import Ranks
from raylora.train.trainee import Trainee

SEVEN_B = {"hidden": 4096, "layers": 32}
HEAD_SIZE, VOCAB_SIZE, MAX_TOKENS = 128, 32_000, 4096
INNER_PER_HIDDEN = 11_008 / 4096
SEED, SPREAD = 0, 0.02


def llama_config(hidden: int, layers: int) -> LlamaConfig:
    """A config with the proportions of Llama 7B.

    Args:
        hidden: Hidden size, a multiple of 128.
        layers: Number of blocks.
    """
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=round(hidden * INNER_PER_HIDDEN),
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD_SIZE,
        num_key_value_heads=hidden // HEAD_SIZE,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=False,
    )


def random_trainee(config: LlamaConfig, spec: RunSpec, device: torch.device) -> Trainee:
    """As `raylora.train.build.place_base`, with random weights in the place of a folder's.

    Args:
        config: Of the base.
        spec: The run.
        device: Where weights are made, packed and held.
    """
    model = base_on_meta(config, spec, compute_dtype(spec, device.type))
    unbinned, why_padded = why_not_binned(model, spec.sequence_len), attend_by_rows(model, spec.sequence_len)
    bank = make_bank(model, spec, ("random", None), device)
    loss = TokenLosses(model)
    generator = torch.Generator(device).manual_seed(SEED)
    for owner in model.modules():
        for leaf, parameter in list(owner.named_parameters(recurse=False)):
            setattr(owner, leaf, nn.Parameter(_made(owner, parameter, generator), requires_grad=False))
    recompute_activations(model, spec)
    strategy, ranks = choose_strategy(spec, device), Ranks()
    trainee = Trainee(spec, model, bank, strategy, loss, device, ranks, ranks, why_padded, unbinned)
    trainee.train_mode(True)
    return trainee


def _made(owner: nn.Module, parameter: nn.Parameter, generator: torch.Generator) -> torch.Tensor:
    if isinstance(owner, QuantLinear):
        weight_OI = torch.empty(owner.shape, dtype=owner.compute_dtype, device=generator.device)
        return owner.format.pack(weight_OI.normal_(0.0, SPREAD, generator=generator))
    made = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
    if parameter.ndim == 1:  # a norm's
        return made.fill_(1.0)
    return made.normal_(0.0, SPREAD, generator=generator)
