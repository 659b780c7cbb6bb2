"""Liger's kernels on transformers' Llama, where its package is there: its own patches, and nobody else's model changed.

Source: https://arxiv.org/abs/2410.10989.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama

NAMES = ("LlamaRMSNorm", "LlamaMLP", "apply_rotary_pos_emb")
"""What Liger replaces for every model of the process."""


def is_installed() -> bool:
    """Whether Liger's package and the Triton that it needs are there."""
    return all(find_spec(name) is not None for name in ("liger_kernel", "triton"))


def patch(model: PreTrainedModel) -> None:
    """Give one model Liger's norms, MLPs and fused loss.

    Args:
        model: Changed in place; its weights are there.
    """
    with _for_others_as_before():
        importlib.import_module("liger_kernel.transformers").apply_liger_kernel_to_llama(model=model)


@contextmanager
def rotary_positions() -> Iterator[None]:
    """Liger's rotary positions, which a model looks up at each call, for as long as this runs."""
    with _for_others_as_before():
        modeling_llama.apply_rotary_pos_emb = importlib.import_module(
            "liger_kernel.transformers.rope"
        ).liger_rotary_pos_emb
        yield


@contextmanager
def _for_others_as_before() -> Iterator[None]:
    before = {name: getattr(modeling_llama, name) for name in NAMES}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(modeling_llama, name, value)
