"""Damage to what lies in a store, as a bad disk does it, or a hand."""

from __future__ import annotations

from collections.abc import Callable

from raylora.store.checkpoint import FOLDER, TENSORS
from raylora.store.contract import Store


def truncated(data: bytes) -> bytes:
    return data[:-1]


def with_a_bit_flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def damage(store: Store, step: int, how: Callable[[bytes], bytes]) -> None:
    """Change the tensors of a run's checkpoint, and not what its manifest says of them."""
    key = f"{FOLDER}/step-{step:08d}/{TENSORS}"
    store.write(key, how(store.read(key)))
