"""Which dtype the model computes in on which device."""

from __future__ import annotations

import torch

from raylora.spec.run import RunSpec


def compute_dtype(spec: RunSpec, device_type: str) -> torch.dtype:
    """The compute dtype of a run.

    Args:
        spec: The run; ``dtype: auto`` asks for bfloat16 where the device has units for it.
        device_type: ``cuda`` or ``cpu``. Without AVX-512-BF16 or AMX a CPU emulates bfloat16, several times slower
            than float32.
    """
    if spec.dtype != "auto":
        dtype: torch.dtype = getattr(torch, spec.dtype)
        return dtype
    has_units = torch.cuda.is_bf16_supported() if device_type == "cuda" else cpu_has_bf16()
    return torch.bfloat16 if has_units else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
