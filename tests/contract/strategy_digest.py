"""Digests of what must stay as it is, on any number of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from raylora.train.trainee import Trainee


def base_digest(trainee: Trainee) -> str:
    """Of the whole base, gathered parameter by parameter."""
    named = list(trainee.model.named_parameters())
    return digest((name, trainee.strategy.full(parameter)) for name, parameter in named)


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        whole.update(name.encode())
        whole.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
