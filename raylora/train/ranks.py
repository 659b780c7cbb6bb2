"""The workers of a run as the training core sees them: a rank, a world size, a few collective calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from raylora.errors import RayloraError, RunFailedError, StoreError, UnusableStoreError


@dataclass(frozen=True)
class Ranks:
    """This process among the workers.

    Args:
        rank: 0 to ``world_size`` - 1.
        world_size: Number of workers.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The default process group; one rank where there is none."""
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over ranks, in place; returns it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_together(self, rows: Sequence[Tensor]) -> None:
        """Sum rows over ranks in place, in one call.

        Args:
            rows: Each of one dimension; equally long on every rank.
        """
        if self.world_size == 1 or len(rows) < 2:
            for row in rows:
                self.sum(row)
            return
        whole = self.sum(torch.cat(list(rows)))
        for row, part in zip(rows, whole.split([len(row) for row in rows]), strict=True):
            row.copy_(part)

    def max(self, *numbers: int) -> list[int]:
        """The largest of every rank's first numbers, of their second ones and so on."""
        of_ranks: list[tuple[int, ...]] = self.gather(numbers)
        return [max(alike) for alike in zip(*of_ranks, strict=True)]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        values: list[Any] = [value]
        if self.world_size > 1:
            values = [None] * self.world_size
            dist.all_gather_object(values, value)
        return values

    def store(self, write: Callable[[], str]) -> str:
        """Let rank 0 write to a store; every rank gets the URI, or fails as rank 0 does, so that none waits for it.

        Args:
            write: Writes, and returns where.

        Raises:
            RunFailedError: What was to be written is broken; on every rank.
            UnusableStoreError: Nothing could be written; on every rank.
            StoreError: It could not be written; on every rank.
        """
        written: str | RayloraError = ""
        if self.rank == 0:
            try:
                written = write()
            except RayloraError as failure:
                kinds = (kind for kind in (RunFailedError, UnusableStoreError) if isinstance(failure, kind))
                written = next(kinds, StoreError)(str(failure))
        written = self.gather(written)[0]
        if isinstance(written, RayloraError):
            raise written
        return written
