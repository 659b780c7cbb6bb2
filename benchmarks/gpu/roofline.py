"""The least time that a device's own peaks leave a step: its operations and its bytes, counted, at measured rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from benchmarks.flops import step_flops
from benchmarks.gpu.device import copy_rate, forget, square_rate
from raylora.train.step import Share
from raylora.train.trainee import Trainee

BASE_READS = 2
"""Forward and backward; that a block runs again is a choice."""
TRIPS = 10
"""Of each trained value: read forward and backward, its gradient written and read, it and two moments read, written."""
TRAINED_BYTES = 4


@dataclass(frozen=True)
class Peaks:
    """What a device reached.

    Args:
        flops_per_s: Operations a second of large square products.
        bytes_per_s: Bytes a second that a large copy reads and writes.
    """

    flops_per_s: float
    bytes_per_s: float

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> Self:
        """Measure them; of products in a dtype."""
        found = cls(square_rate(device, dtype), copy_rate(device))
        forget(device)
        return found

    @classmethod
    def told(cls, results: Mapping[str, Any]) -> Self:
        """From a script's results."""
        return cls(**results["peaks"])

    @property
    def told_as(self) -> dict[str, float]:
        """For a script's results."""
        return asdict(self)

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"Measured peaks: {self.flops_per_s / 1e12:.1f} TFLOP/s of large square products, "
            f"{self.bytes_per_s / 1e9:.0f} GB/s of copies."
        )

    def floor_s(self, flops: float, num_bytes: float) -> float:
        """The longer of what operations and bytes take.

        Args:
            flops: Operations.
            num_bytes: Read and written.
        """
        return max(flops / self.flops_per_s, num_bytes / self.bytes_per_s)


def step_bytes(trainee: Trainee, slots: Sequence[int]) -> int:
    """Fewest bytes that a step of some slots moves: the base as it is held, and what trains; no activations.

    Args:
        trainee: The base and its slots, on one device.
        slots: That step.
    """
    looked_up = trainee.model.get_input_embeddings().weight  # a few of its rows
    base = sum(parameter.nbytes for parameter in trainee.base if parameter is not looked_up)
    return BASE_READS * base + sum(TRIPS * TRAINED_BYTES * trainee.num_trainable(slot) for slot in slots)


def step_floor_s(peaks: Peaks, trainee: Trainee, shares: Sequence[Share]) -> float:
    """Least seconds of a step.

    Args:
        peaks: Of the device.
        trainee: The base and its slots.
        shares: Of the slots that step.
    """
    slots = [share.slot for share in shares]
    return peaks.floor_s(step_flops(trainee, shares), step_bytes(trainee, slots))
