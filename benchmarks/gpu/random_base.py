"""A Llama-shaped base with random weights, made and packed on the device weight by weight: nothing is downloaded.

The same seed gives the same weights to raylora and to the other side of a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import bitsandbytes as bnb
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

from raylora.model.base.dtype import compute_dtype
from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.base.load import base_on_meta, blocks, move_buffers
from raylora.model.base.meta import meta_model
from raylora.model.rows.bins import why_not_binned
from raylora.model.rows.row_attention import attend_by_rows
from raylora.objectives.token_losses import TokenLosses
from raylora.spec.run import RunSpec
from raylora.strategy.choose import choose_strategy
from raylora.train.build import make_bank, recompute_activations
from raylora.train.ranks import Ranks
from raylora.train.trainee import Trainee

ONE_B, THREE_B, SEVEN_B, SIXTY_FIVE_B = (2048, 16), (3200, 26), (4096, 32), (8192, 80)
"""Hidden size and blocks."""
HEAD_SIZE, VOCAB_SIZE, MAX_TOKENS = 128, 32_000, 65_536
INNER_PER_HIDDEN, INNER_MULTIPLE = 11_008 / 4096, 64
SEED, SPREAD = 0, 0.02


def dtype_on(device: torch.device) -> torch.dtype:
    """What a run computes in that names no dtype.

    Args:
        device: On which.
    """
    named_by_none = RunSpec.model_validate({"base_model": "x", "datasets": [{"path": "x.jsonl"}]})
    return compute_dtype(named_by_none, device.type)


def inner_size(hidden: int) -> int:
    """Inner features of a block: those of Llama 7B and 65B, and of OpenLLaMA 3B, at their hidden sizes."""
    return INNER_MULTIPLE * math.ceil(hidden * INNER_PER_HIDDEN / INNER_MULTIPLE)


def llama_config(hidden: int, layers: int) -> LlamaConfig:
    """A config with the proportions of Llama 7B, which are those of 65B.

    Args:
        hidden: Hidden size, a multiple of 128.
        layers: Number of blocks.
    """
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner_size(hidden),
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
    strategy, ranks = choose_strategy(spec, device), Ranks()
    bank = make_bank(model, spec, ("random", None), device)
    loss = TokenLosses(model)
    generator = torch.Generator(device).manual_seed(SEED)
    for block in blocks(model).values():
        _fill(block, generator)
        strategy.place_block(block)
    _fill(model, generator)
    move_buffers(model, device)
    strategy.place_root(model)
    recompute_activations(model, spec)
    trainee = Trainee(spec, model, bank, strategy, loss, device, ranks, ranks, why_padded, unbinned)
    trainee.train_mode(True)
    return trainee


@contextmanager
def kept_activations(trainee: Trainee) -> Iterator[None]:
    """Blocks keep what their backward pass needs while this runs, instead of running again.

    Args:
        trainee: The base and its slots.
    """
    # Renamed within transformers 5; the older name warns where the newer one is there.
    disable = getattr(trainee.model, "activation_checkpointing_disable", None)
    (disable or trainee.model.gradient_checkpointing_disable)()
    try:
        yield
    finally:
        recompute_activations(trainee.model, trainee.spec)


def random_model(config: LlamaConfig, spec: RunSpec, device: torch.device) -> PreTrainedModel:
    """The same weights as a model of transformers, with bitsandbytes' own layers where the run is in 4 bits.

    Args:
        config: Of the base.
        spec: The run: dtype, quantization and gradient checkpointing count.
        device: Where weights are made, packed and held.
    """
    model = meta_model(config, compute_dtype(spec, device.type))
    model.requires_grad_(False)
    generator = torch.Generator(device).manual_seed(SEED)
    for block in blocks(model).values():
        _fill(block, generator, in_4bit=spec.load_in_4bit)
    _fill(model, generator)
    move_buffers(model, device)
    model.is_loaded_in_4bit = spec.load_in_4bit  # PEFT asks for it
    recompute_activations(model, spec)
    return model


def linear_4bit(weight_OI: torch.Tensor) -> bnb.nn.Linear4bit:
    """Bitsandbytes' own layer of a weight, in NF4 with double quantization.

    Args:
        weight_OI: In the compute dtype, on the device; (O, I).
    """
    with torch.device("meta"):
        layer = bnb.nn.Linear4bit(
            weight_OI.shape[1], weight_OI.shape[0], bias=False, compute_dtype=weight_OI.dtype, quant_type="nf4"
        )
    weight = bnb.nn.Params4bit(weight_OI, requires_grad=False, quant_type="nf4", module=layer)
    layer.weight = weight.to(weight_OI.device)
    return layer


def _fill(module: nn.Module, generator: torch.Generator, in_4bit: bool = False) -> None:
    """Draw what is still on the meta device, always in the same order."""
    for path, owner in list(module.named_modules()):
        for leaf, parameter in list(owner.named_parameters(recurse=False)):
            if not parameter.is_meta:
                continue
            made = _made(owner, parameter, generator)
            if in_4bit and type(owner) is nn.Linear:
                module.set_submodule(path, linear_4bit(made))
            else:
                setattr(owner, leaf, nn.Parameter(made, requires_grad=False))


def _made(owner: nn.Module, parameter: nn.Parameter, generator: torch.Generator) -> torch.Tensor:
    if isinstance(owner, QuantLinear):
        weight_OI = torch.empty(owner.shape, dtype=owner.compute_dtype, device=generator.device)
        return owner.format.pack(weight_OI.normal_(0.0, SPREAD, generator=generator))
    made = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
    if parameter.ndim == 1:  # a norm's
        return made.fill_(1.0)
    return made.normal_(0.0, SPREAD, generator=generator)
