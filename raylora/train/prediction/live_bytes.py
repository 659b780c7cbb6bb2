"""Bytes of the tensors that are alive, counted while operations run: on the meta device a prediction without memory.

Called by `dry_run`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make while the mode is on, until nothing refers to them.

    What a kernel allocates and frees within one operation is not seen.

    Args:
        known: Tensors that exist already; they count nothing.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now_bytes = 0
        self._peak_bytes = 0
        self._seen = weakref.WeakSet([tensor.untyped_storage() for tensor in known])

    def lap(self) -> int:
        """The peak since the last call, or since the start."""
        peak_bytes, self._peak_bytes = self._peak_bytes, self.now_bytes
        return peak_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:  # a view, or written in place
            return
        self._seen.add(storage)
        num_bytes = storage.nbytes()
        self.now_bytes += num_bytes
        self._peak_bytes = max(self._peak_bytes, self.now_bytes)
        weakref.finalize(storage, self._forget, num_bytes)

    def _forget(self, num_bytes: int) -> None:
        self.now_bytes -= num_bytes
