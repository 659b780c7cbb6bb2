"""Frozen linear layers held in 8 or 4 bits, one flat parameter each.

A weight enters in full precision and leaves as one row of bytes: the packed values, then the scales
that undo the packing. The row is stored under a float dtype, so that whatever shards float
parameters (FSDP2, ZeRO-3) shards values and scales alike and each rank holds exactly its part.
Called by ``load`` (which packs) and by the model's forward pass (which unpacks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from bitsandbytes.functional import (
    QuantState,
    create_dynamic_map,
    dequantize_4bit,
    get_4bit_type,
    quantize_4bit,
)
from torch import Tensor, nn

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
        start = 0
        for name, length in self.segments(shape).items():
            row[start : start + length] = parts[name].contiguous().view(-1).view(torch.uint8)
            start += _aligned(length)
        return row.view(self.storage)

    def unpack(self, row: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Undo :meth:`pack`; returns the weight (O, I) in ``dtype``, up to the quantization error."""
        row_bytes = row.view(torch.uint8)
        parts, start = {}, 0
        for name, length in self.segments(shape).items():
            parts[name] = row_bytes[start : start + length]
            start += _aligned(length)
        if self.kind == "int8":
            scales = parts["scales"].view(torch.float32)
            return (parts["values"].view(torch.int8).view(shape) * scales[:, None]).mul_(INT8_STEP).to(dtype)
        return self._unpack_4bit(parts, shape, dtype)

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

    def _unpack_4bit(self, parts: dict[str, Tensor], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        device = parts["values"].device
        state = QuantState(
            absmax=self._scales(parts, device),
            shape=torch.Size(shape),
            dtype=dtype,
            blocksize=BLOCK,
            code=_code(self.kind, device),
            quant_type=self.kind,
        )
        return dequantize_4bit(parts["values"].view(-1, 1), state)

    def _scales(self, parts: dict[str, Tensor], device: torch.device) -> Tensor:
        if not self.double_quant:
            return parts["scales"].view(torch.float32)
        scales = _code("dynamic", device)[parts["scales"].int()]
        nested = parts["nested_scales"].view(torch.float32)
        num_whole = scales.numel() // NESTED_BLOCK
        scales[: num_whole * NESTED_BLOCK].view(num_whole, NESTED_BLOCK).mul_(nested[:num_whole, None])
        scales[num_whole * NESTED_BLOCK :].mul_(nested[num_whole:])
        return scales.add_(parts["offset"].view(torch.float32))


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


class _FrozenLinear(torch.autograd.Function):
    """y = x W^T + b with W unpacked for the product only, forward and backward; W gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: Tensor, bias: Tensor | None, layer: QuantLinear) -> Tensor:
        ctx.save_for_backward(row)
        ctx.layer = layer
        return F.linear(x, layer.format.unpack(row, layer.shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_y,) = grads
        (row,) = ctx.saved_tensors
        layer = ctx.layer
        return grad_y @ layer.format.unpack(row, layer.shape, grad_y.dtype), None, None, None


class QuantLinear(nn.Linear):
    """A frozen linear layer whose weight is one packed row.

    It is an ``nn.Linear`` for whoever asks (PEFT, target matching): ``weight`` unpacks on reading.

    Args:
        linear: The layer it stands for; its weight may be on the meta device.
        quant_format: How the weight is packed.
    """

    def __init__(self, linear: nn.Linear, quant_format: QuantFormat) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.format = quant_format
        row = torch.empty(quant_format.numel(self.shape), dtype=quant_format.storage, device=linear.weight.device)
        self.packed = nn.Parameter(row, requires_grad=False)
        self.register_parameter("bias", linear.bias)
        self.compute_dtype = linear.weight.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features."""
        return self.out_features, self.in_features

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The weight in the compute dtype, unpacked anew at each reading."""
        unpacked = self.format.unpack(self.packed, self.shape, self.compute_dtype)
        return nn.Parameter(unpacked, requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ W.T + bias``, shapes (..., I) to (..., O)."""
        out: Tensor = _FrozenLinear.apply(input, self.packed, self.bias, self)
        return out

    def extra_repr(self) -> str:
        """Shape and format, for printing a model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, format={self.format.kind}"
