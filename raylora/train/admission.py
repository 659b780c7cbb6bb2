"""The start of an adapter: what it can fail with, told as that run's failure, and how it is soon made.

The others of a pack go on. Called where a slot is given a new adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raylora.errors import ModelError, RunFailedError
from raylora.spec.run import RunSpec


@contextmanager
def start_of(spec: RunSpec) -> Iterator[None]:
    """Make an adapter inside of this.

    Args:
        spec: Of the run that the adapter is for.

    Raises:
        ModelError: A weight of the base could not be taken apart.
        RunFailedError: No memory is left for the adapter.
    """
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # it is there, and documented
        raise ModelError(
            f"init_lora_weights: {spec.init_lora_weights} takes the base's weights apart, and one could not be "
            f"({error}); look whether all of them are finite, or set init_lora_weights: true"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        if spec.trains_base:
            raise RunFailedError(
                f"adapter: full: no memory is left for the gradients of all weights ({error}); take more workers with "
                "distributed.strategy: fsdp, or train an adapter"
            ) from error
        field, of = ("lora_r", f"rank {spec.lora_r}") if spec.peft is None else ("peft", spec.adapter_title)
        raise RunFailedError(
            f"{field}: no memory is left for an adapter of {of} ({error}); lower its rank, choose fewer targets, or, "
            "in a sweep, fewer slots"
        ) from error


def soon_started(spec: RunSpec) -> RunSpec:
    """A run whose steps take as long and whose start is soon made, for whoever times steps: no whole decomposition."""
    if spec.init_lora_weights is True:
        return spec
    return spec.model_copy(update={"init_lora_weights": "pissa_niter_1" if spec.starts_from_base else True})


def _is_memory(error: Exception) -> bool:
    # torch has a class of its own for devices; the CPU's allocator gives its name alone.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
