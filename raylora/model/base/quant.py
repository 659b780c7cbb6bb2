"""How a weight is held in 8 or 4 bits: one flat row.

A weight enters in full precision and leaves as one row of bytes: the packed values, then the scales
that undo the packing. The row is stored under a float dtype, so that whatever shards float
parameters (FSDP2, ZeRO-3) shards values and scales alike and each rank holds exactly its part.
Called by ``load`` (which packs) and by the frozen linear layer (which unpacks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from raylora.model.base.uncompiled import uncompiled

with uncompiled():
    from bitsandbytes.functional import (
        QuantState,
        create_dynamic_map,
        dequantize_4bit,
        get_4bit_type,
        quantize_4bit,
    )

BLOCK = 64
"""Values that share one scale in 4 bits (QLoRA, section 3)."""
NESTED_BLOCK = 256
"""Scales that share one scale of scales under double quantization."""
ALIGNMENT_BYTES = 16
INT8_STEP = 7.874015718698502e-3
"""1/127 as bitsandbytes writes it."""


def _aligned(num_bytes: int) -> int:
    return math.ceil(num_bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(frozen=True)
class QuantFormat:
    """How a weight is packed.

    Args:
        kind: ``int8`` (one scale a row, LLM.int8's vector-wise scheme without activation
            quantization), ``nf4`` or ``fp4`` (one scale a block of 64 values).
        double_quant: Quantize the 4-bit scales to 8 bits in turn.
        storage: Dtype under which the bytes are stored.

    Source: QLoRA, https://arxiv.org/abs/2305.14314; LLM.int8(), https://arxiv.org/abs/2208.07339.
    """

    kind: Literal["int8", "nf4", "fp4"]
    double_quant: bool
    storage: torch.dtype

    def segments(self, shape: tuple[int, int]) -> dict[str, int]:
        """Name and length in bytes of each part of the row, in order.

        Args:
            shape: Output and input features of the weight.
        """
        num_values = shape[0] * shape[1]
        if self.kind == "int8":
            return {"values": num_values, "scales": 4 * shape[0]}
        num_blocks = math.ceil(num_values / BLOCK)
        parts = {"values": math.ceil(num_values / 2)}
        if self.double_quant:
            return parts | {
                "scales": num_blocks,
                "nested_scales": 4 * math.ceil(num_blocks / NESTED_BLOCK),
                "offset": 4,
            }
        return parts | {"scales": 4 * num_blocks}

    def num_bytes(self, shape: tuple[int, int]) -> int:
        """Bytes of the whole row, with each part aligned."""
        return sum(_aligned(length) for length in self.segments(shape).values())

    def numel(self, shape: tuple[int, int]) -> int:
        """Elements of the row under the storage dtype."""
        return self.num_bytes(shape) // self.storage.itemsize

    def pack(self, weight_OI: Tensor) -> Tensor:
        """Pack a weight into its row.

        Shapes:
            weight_OI: (O, I), float32, bfloat16 or float16. Returns (numel,) of the storage dtype.
        """
        shape = (weight_OI.shape[0], weight_OI.shape[1])
        parts = _pack_int8(weight_OI) if self.kind == "int8" else self._pack_4bit(weight_OI)
        row = torch.zeros(self.num_bytes(shape), dtype=torch.uint8, device=weight_OI.device)
        for name, span in _spans(self, shape).items():
            row[span] = parts[name].contiguous().view(-1).view(torch.uint8)
        return row.view(self.storage)

    def unpack(self, row: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Undo :meth:`pack`; returns the weight (O, I) in ``dtype``, up to the quantization error.

        Args:
            row: What :meth:`pack` returned, whole.
            shape: (O, I) of the weight.
            dtype: Of the result.
        """
        if self.kind == "int8":
            parts = self._parts(row, shape)
            scales = parts["scales"].view(torch.float32)
            return (parts["values"].view(torch.int8).view(shape) * scales[:, None]).mul_(INT8_STEP).to(dtype)
        return dequantize_4bit(*self.state_4bit(row, shape, dtype)).view(shape)

    def state_4bit(self, row: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, QuantState]:
        """A row in 4 bits as functions of bitsandbytes take it, views all of it: values, and what undoes the packing.

        Args:
            row: What :meth:`pack` returned, whole.
            shape: (O, I) of the weight; that of the state is another where I is no whole number of blocks.
            dtype: Of the unpacked weight.
        """
        parts = self._parts(row, shape)
        device, scales = row.device, parts["scales"]
        state = QuantState(
            absmax=scales if self.double_quant else scales.view(torch.float32),
            shape=torch.Size(_rows_of_blocks(shape)),
            dtype=dtype,
            blocksize=BLOCK,
            code=_code(self.kind, device),
            quant_type=self.kind,
        )
        if self.double_quant:
            nested = parts["nested_scales"].view(torch.float32)
            code = _code("dynamic", device)
            state.state2 = QuantState(absmax=nested, code=code, blocksize=NESTED_BLOCK, dtype=torch.float32)
            state.offset, state.nested = parts["offset"].view(torch.float32), True
        return parts["values"].view(-1, 1), state

    def _parts(self, row: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        row_bytes = row.view(torch.uint8)
        return {name: row_bytes[span] for name, span in _spans(self, shape).items()}

    def _pack_4bit(self, weight_OI: Tensor) -> dict[str, Tensor]:
        values, state = quantize_4bit(
            weight_OI.contiguous(), blocksize=BLOCK, compress_statistics=self.double_quant, quant_type=self.kind
        )
        if not self.double_quant:
            return {"values": values, "scales": state.absmax}
        return {
            "values": values,
            "scales": state.absmax,
            "nested_scales": state.state2.absmax,
            "offset": state.offset.reshape(1),
        }


@lru_cache
def _spans(form: QuantFormat, shape: tuple[int, int]) -> dict[str, slice]:
    """Where each part lies in the row, in bytes."""
    spans, start = {}, 0
    for name, length in form.segments(shape).items():
        spans[name] = slice(start, start + length)
        start += _aligned(length)
    return spans


def _rows_of_blocks(shape: tuple[int, int]) -> tuple[int, int]:
    """A shape of the same values whose rows are whole blocks, or one row.

    Blocks go on over the rows of a weight. bitsandbytes' kernel for CPUs begins a new one with each row, and gives
    wrong values where a row is no whole number of blocks.
    """
    num_values = math.prod(shape)
    if shape[1] % BLOCK == 0:
        return shape
    return (num_values // BLOCK, BLOCK) if num_values % BLOCK == 0 else (1, num_values)


_codes: dict[tuple[str, torch.device], Tensor] = {}


def _code(kind: str, device: torch.device) -> Tensor:
    """What each code word stands for: 16 values of ``nf4`` or ``fp4``, 256 of ``dynamic``; one copy a device."""
    if (kind, device) not in _codes:
        code = create_dynamic_map() if kind == "dynamic" else get_4bit_type(kind, device=device)
        _codes[kind, device] = code.to(device)
    return _codes[kind, device]


def _pack_int8(weight_OI: Tensor) -> dict[str, Tensor]:
    """Largest magnitude of each row, and values as multiples of 1/127 of it, in bitsandbytes' order of operations."""
    weight_OI = weight_OI.float()
    scales_O = weight_OI.abs().amax(dim=1)
    safe_O = torch.where(scales_O == 0, torch.ones_like(scales_O), scales_O)
    return {"values": torch.round(weight_OI * (127.0 / safe_O[:, None])).to(torch.int8), "scales": scales_O}
