"""Damage to what lies in a store, as a bad disk does it, or a hand."""

from __future__ import annotations

from collections.abc import Callable

from raylora.store.checkpoint import FOLDER, STATE, TENSORS
from raylora.store.contract import Store
from raylora.store.manifest import MANIFEST


def truncated(data: bytes) -> bytes:
    return data[:-1]


def with_a_bit_flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def damage(store: Store, step: int, how: Callable[[bytes], bytes]) -> None:
    """Change the tensors of a run's checkpoint, and not what its manifest says of them."""
    key = f"{FOLDER}/step-{step:08d}/{TENSORS}"
    store.write(key, how(store.read(key)))


def lose(store: Store, step: int, name: str) -> None:
    """Delete one file of a run's checkpoint."""
    store.delete(f"{FOLDER}/step-{step:08d}/{name}")


DAMAGES: dict[str, Callable[[Store, int], None]] = {
    "truncated": lambda store, step: damage(store, step, truncated),
    "a bit flipped": lambda store, step: damage(store, step, with_a_bit_flipped),
    "a file missing": lambda store, step: lose(store, step, STATE),
    "manifest missing": lambda store, step: lose(store, step, MANIFEST),
}
"""What may befall a run's checkpoint of a step."""
