"""Types of PEFT's that can be trained through a ``peft:`` block, each with fields that fit the tiny base.

A type that PEFT adds is added here, and to the table of docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.pvera.layer import PveraLayer

ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
MIXED = {"target_modules": ["k_proj", "down_proj"]}
"""Layers of two shapes: for types whose layers share something."""

TYPES: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4, "lora_alpha": 8, "rank_pattern": {"v_proj": 2}, "layers_to_transform": [1], **ATTENTION},
    "BEFT": {**MIXED},
    "BOFT": {"boft_block_size": 4, **ATTENTION},
    "C3A": {"block_size": 16, **MIXED},
    "DEFT": {"r": 4, "decomposition_method": "qr", **ATTENTION},
    "DELORA": {"r": 4, "delora_lambda": 15, **ATTENTION},
    "FOURIERFT": {"n_frequency": 50, "init_weights": True, **ATTENTION},
    "FROD": {"sparse_rate": 0.05, "progressbar": False, **ATTENTION},
    "GRALORA": {"r": 4, "alpha": 8, "gralora_k": 2, **ATTENTION},
    "HIRA": {"r": 4, **ATTENTION},
    "HRA": {"r": 4, **ATTENTION},
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {},
    "LOHA": {"r": 4, "alpha": 8, **ATTENTION},
    "LOKR": {"r": 4, "alpha": 8, **MIXED},
    "MISS": {"r": 4, **ATTENTION},
    "OFT": {"oft_block_size": 32, **MIXED},
    "OSF": {"effective_rank": 4, **ATTENTION},
    "PEANUT": {"r": 4, "depth": 2, **ATTENTION},
    "PSOFT": {"r": 4, "psoft_alpha": 4, **ATTENTION},
    "PVERA": {"r": 16, **MIXED},
    "RANDLORA": {"r": 8, "randlora_alpha": 16, **MIXED},
    "ROAD": {"group_size": 16, **ATTENTION},
    "SHIRA": {"r": 4, **ATTENTION},
    "SUPERTUNING": {"sparsity": 0.95, **ATTENTION},
    "TINYLORA": {"r": 2, "u": 16, **ATTENTION},
    "TRAINABLE_TOKENS": {"token_indices": list(range(100)), "target_modules": ["embed_tokens"]},
    "UNILORA": {"r": 4, "theta_d_length": 64, **ATTENTION},
    "VBLORA": {"r": 4, "num_vectors": 8, "vector_length": 16, "topk": 2, **MIXED},
    "VERA": {"r": 16, **MIXED},
    "WAVEFT": {"n_frequency": 50, "init_weights": False, **ATTENTION},
}
ALL = sorted(str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING)


def block_of(kind: str) -> dict[str, Any]:
    """The block as a run has it."""
    return {"peft_type": kind, **TYPES[kind]}


@contextmanager
def as_much_noise_for_every_token() -> Iterator[None]:
    """PVERA draws noise in training, by the shape of what comes in: another for padded lines, and on each worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PveraLayer, "_reparametrize", lambda self, mu, logvar, name: mu + 0.3 * torch.exp(0.5 * logvar))
        yield
