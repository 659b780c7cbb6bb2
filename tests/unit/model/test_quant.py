"""Packed rows against bitsandbytes' own quantization, bit for bit; the packed layer against a plain one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.functional import (
    dequantize_4bit,
    dequantize_blockwise,
    get_4bit_type,
    int8_vectorwise_dequant,
    int8_vectorwise_quant,
    quantize_4bit,
)
from torch import Tensor, nn

from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.base.quant import BLOCK, QuantFormat

# Whole blocks and broken ones, more and fewer than one block of scales, odd counts of values.
SHAPES = [(64, 64), (64, 96), (7, 34), (1, 2), (3, 5), (300, 700)]
DTYPES = [torch.float32, torch.bfloat16]
FOUR_BITS = [QuantFormat(kind, double, torch.float32) for kind in ("nf4", "fp4") for double in (False, True)]
FORMATS = [*FOUR_BITS, QuantFormat("int8", False, torch.float32)]
STORAGES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8]


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """bitsandbytes would compile its way for odd widths first, for ten seconds."""
    with torch.compiler.set_stance("force_eager"):
        yield


def name_of(value: object) -> str:
    if isinstance(value, QuantFormat):
        return f"{value.kind}{'-double' if value.double_quant else ''}"
    return str(value).removeprefix("torch.").replace(" ", "")


def random_weight(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Rows of very different size, and one of zeros."""
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=generator) * torch.logspace(-3, 1, shape[0])[:, None]
    if shape[0] > 2:
        weight[1] = 0.0
    return weight.to(dtype)


def theirs(weight: Tensor, form: QuantFormat) -> Tensor:
    """The weight after bitsandbytes packed and unpacked it."""
    if form.kind == "int8":
        values, scales, _ = int8_vectorwise_quant(weight.float())
        return int8_vectorwise_dequant(values, scales).to(weight.dtype)
    values, state = quantize_4bit(weight, blocksize=BLOCK, compress_statistics=form.double_quant, quant_type=form.kind)
    if weight.shape[1] % BLOCK == 0:
        return dequantize_4bit(values, state)
    # Its kernel for CPUs is wrong where a row is no whole number of blocks; this is its way for any device.
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(scales, state.state2) + state.offset
    code = get_4bit_type(form.kind, device="cpu")
    return _dequantize_4bit_compute(values.flatten(), scales, code, BLOCK, weight.shape, weight.dtype)


def linear(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(shape[1], shape[0], dtype=dtype)
    layer.weight.data = random_weight(shape, dtype)
    return layer.requires_grad_(False)


def packed(layer: nn.Linear, form: QuantFormat) -> QuantLinear:
    quantized = QuantLinear(layer, form)
    quantized.packed.data = form.pack(layer.weight)
    return quantized


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_a_weight_comes_back_as_from_bitsandbytes(form: QuantFormat, shape: tuple[int, int], dtype: torch.dtype):
    weight = random_weight(shape, dtype)
    found = form.unpack(form.pack(weight), shape, dtype)
    torch.testing.assert_close(found, theirs(weight, form), rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
@pytest.mark.parametrize("form", FOUR_BITS, ids=name_of)
def test_the_row_holds_bitsandbytes_own_bytes(form: QuantFormat, shape: tuple[int, int]):
    weight = random_weight(shape, torch.float32)
    values, state = quantize_4bit(weight, blocksize=BLOCK, compress_statistics=form.double_quant, quant_type=form.kind)
    row = form.pack(weight).view(torch.uint8)
    assert torch.equal(row[: values.numel()], values.flatten())
    rest = row[values.numel() :].tolist()
    assert bytes(state.absmax.view(torch.uint8).tolist()) in bytes(rest)


@pytest.mark.parametrize("storage", STORAGES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_bytes_said_before_are_the_bytes_of_the_row(form: QuantFormat, shape: tuple[int, int], storage: torch.dtype):
    stored = QuantFormat(form.kind, form.double_quant, storage)
    row = stored.pack(random_weight(shape, torch.float32))
    assert row.dtype is storage
    assert row.numel() == stored.numel(shape)
    assert row.numel() * row.element_size() == stored.num_bytes(shape)
    assert sum(stored.segments(shape).values()) <= stored.num_bytes(shape)
    same = torch.equal(row.view(torch.uint8), form.pack(random_weight(shape, torch.float32)).view(torch.uint8))
    assert same, "the storage dtype changes how bytes are read, never the bytes"


@pytest.mark.parametrize(
    ("form", "bits"),
    [(FOUR_BITS[0], 4.5), (FOUR_BITS[1], 4 + 8 / 64 + 32 / 64 / 256), (FORMATS[-1], 8 + 32 / 4096)],
    ids=name_of,
)
def test_bits_a_parameter_are_the_published_ones(form: QuantFormat, bits: float):
    """Double quantization saves 0.373 bit a parameter (QLoRA, section 3)."""
    assert 8 * form.num_bytes((4096, 4096)) / 4096**2 == pytest.approx(bits, abs=1e-4)


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_the_packed_layer_is_a_plain_layer_with_the_unpacked_weight(form: QuantFormat, with_bias: bool):
    plain = linear((48, 130))
    if not with_bias:
        plain.bias = None
    quantized = packed(plain, form)
    plain.weight.data = theirs(plain.weight, form)
    torch.testing.assert_close(quantized.weight.data, plain.weight.data, rtol=0, atol=0)
    torch.manual_seed(0)
    x = torch.randn(2, 5, 130, requires_grad=True)
    x_plain = x.detach().clone().requires_grad_()
    grad = torch.randn(2, 5, 48)
    quantized(x).backward(grad)
    plain(x_plain).backward(grad)
    torch.testing.assert_close(quantized(x), plain(x), rtol=0, atol=0)
    torch.testing.assert_close(x.grad, x_plain.grad, rtol=1e-5, atol=1e-6)
    assert quantized.packed.grad is None


def test_bfloat16_layers_compute_in_bfloat16():
    plain = linear((48, 128), torch.bfloat16)
    quantized = packed(plain, QuantFormat("nf4", True, torch.bfloat16))
    plain.weight.data = theirs(plain.weight, quantized.format)
    x = torch.randn(3, 128, dtype=torch.bfloat16)
    assert quantized.weight.dtype is torch.bfloat16
    torch.testing.assert_close(quantized(x), plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_a_weight_of_zeros_stays_zeros(form: QuantFormat):
    zeros = torch.zeros(8, 64)
    assert torch.equal(form.unpack(form.pack(zeros), (8, 64), torch.float32), zeros)


def test_it_is_a_linear_layer_for_whoever_asks():
    quantized = QuantLinear(nn.Linear(64, 32, device="meta"), FOUR_BITS[0])
    assert isinstance(quantized, nn.Linear)
    assert quantized.packed.is_meta
    assert (quantized.in_features, quantized.out_features) == (64, 32)
    assert {name for name, _ in quantized.named_parameters()} == {"packed", "bias"}
    assert "nf4" in repr(quantized)


def test_what_a_weight_is_like_is_told_without_unpacking_it(monkeypatch: pytest.MonkeyPatch):
    plain = linear((48, 130))
    quantized = packed(plain, FOUR_BITS[0])
    wanted = theirs(plain.weight, FOUR_BITS[0])
    unpack, unpacked = QuantFormat.unpack, []

    def noted(form: QuantFormat, row: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        unpacked.append(shape)
        return unpack(form, row, shape, dtype)

    monkeypatch.setattr(QuantFormat, "unpack", noted)
    weight = quantized.weight
    assert isinstance(weight, nn.Parameter) and not weight.requires_grad
    assert (weight.dtype, weight.device, weight.shape) == (plain.weight.dtype, plain.weight.device, plain.weight.shape)
    assert (weight.numel(), weight.ndim, weight.size(0), weight.nbytes) == (48 * 130, 2, 48, 4 * 48 * 130)
    assert not unpacked
    x = torch.randn(3, 130, requires_grad=True)
    nn.functional.linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, wanted.sum(0).expand(3, -1))
    for found in (
        weight + 0,
        weight.data,
        weight.detach(),
        weight.clone(),
        weight.t().mT,
        torch.cat([weight, weight])[:48],
    ):
        assert torch.equal(found, wanted)
    assert torch.equal(torch.tensor(weight.tolist()), wanted)
    assert len(unpacked) == 1, "all of these take the values of one reading"
    with pytest.raises(TypeError, match="the frozen base takes no other"):
        weight.data = wanted
