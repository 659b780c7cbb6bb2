"""Products over rows: a row's bits do not depend on its neighbours, and every kernel computes what torch's does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylora.model.base.product import ONEDNN_FLOP, add_product, frozen_product, is_batched, product

# Around the widths of vector registers and of blocks, where kernels change, and what lies between.
SIZES = st.sampled_from([1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129]) | st.integers(1, 600)
NUM_ROWS = st.integers(1, 20) | st.integers(1, 260)
NUM_INPUTS = SIZES | st.sampled_from([1000, 1536, 2048, 4095, 4096])
# A loaded machine is slow at anything, drawing examples among it.
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(params=[1, 2])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weight_of(num_outputs: int, num_inputs: int, is_transposed: bool) -> Tensor:
    return numbers(num_inputs, num_outputs).t() if is_transposed else numbers(num_outputs, num_inputs)


@FEW
@given(
    data=st.data(),
    num_rows=NUM_ROWS,
    num_inputs=NUM_INPUTS,
    num_outputs=SIZES,
    is_transposed=st.booleans(),
    has_bias=st.booleans(),
)
def test_a_row_has_the_same_bits_beside_any_others(
    num_threads: int,
    data: st.DataObject,
    num_rows: int,
    num_inputs: int,
    num_outputs: int,
    is_transposed: bool,
    has_bias: bool,
):
    weight_OI = weight_of(num_outputs, num_inputs, is_transposed)
    bias_O = numbers(num_outputs, seed=1) if has_bias else None
    x_NI = numbers(num_rows, num_inputs, seed=2)
    together = frozen_product(x_NI, weight_OI, bias_O)
    start = data.draw(st.integers(0, num_rows - 1))
    end = data.draw(st.integers(start + 1, num_rows))
    assert torch.equal(frozen_product(x_NI[start:end], weight_OI, bias_O), together[start:end])
    assert torch.equal(frozen_product(x_NI[start : start + 1].clone(), weight_OI, bias_O), together[start : start + 1])
    others_NI = x_NI.flip(0)  # the same number of rows, this one in another place
    assert torch.equal(frozen_product(others_NI, weight_OI, bias_O).flip(0), together)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_row_that_is_not_a_number_spoils_no_other(num_threads: int, is_transposed: bool):
    weight_OI, x_NI = weight_of(96, 64, is_transposed), numbers(24, 64)
    clean_NO = frozen_product(x_NI, weight_OI)
    x_NI[7], x_NI[8] = float("nan"), float("inf")
    found_NO = frozen_product(x_NI, weight_OI)
    is_clean_N = torch.ones(24, dtype=torch.bool)
    is_clean_N[7:9] = False
    assert torch.equal(found_NO[is_clean_N], clean_NO[is_clean_N])
    assert not found_NO[~is_clean_N].isfinite().any()


@FEW
@given(
    num_rows=NUM_ROWS,
    num_inputs=NUM_INPUTS,
    num_outputs=SIZES,
    is_transposed=st.booleans(),
    has_transposed_rows=st.booleans(),
)
def test_every_product_is_torchs_to_rounding(
    num_threads: int, num_rows: int, num_inputs: int, num_outputs: int, is_transposed: bool, has_transposed_rows: bool
):
    weight_OI = weight_of(num_outputs, num_inputs, is_transposed)
    x_NI = weight_of(num_rows, num_inputs, has_transposed_rows)
    bias_O = numbers(num_outputs, seed=1)
    exact_NO = x_NI.double() @ weight_OI.double().t()
    # Relative beside it: where a row meets itself, a sum of squares is as large as all of its terms together.
    bounds = {"rtol": 1e-6, "atol": 1e-6 * (num_inputs + 10)}
    torch.testing.assert_close(product(x_NI, weight_OI).double(), exact_NO, **bounds)
    torch.testing.assert_close(frozen_product(x_NI, weight_OI).double(), exact_NO, **bounds)
    torch.testing.assert_close(frozen_product(x_NI, weight_OI, bias_O).double(), exact_NO + bias_O, **bounds)
    before_NO = numbers(num_rows + 3, num_outputs, seed=3)
    sum_NO = before_NO.clone()
    add_product(sum_NO[1:-2], x_NI, weight_OI)
    torch.testing.assert_close(sum_NO[1:-2].double(), before_NO[1:-2] + exact_NO, **bounds)
    assert torch.equal(sum_NO[:1], before_NO[:1])
    assert torch.equal(sum_NO[-2:], before_NO[-2:])


@FEW
@given(
    data=st.data(),
    num_slots=st.integers(1, 9),
    num_rows=st.integers(1, 140),
    rank=st.integers(1, 16).map(lambda number: 4 * number),
    num_inputs=SIZES.map(lambda number: -(-number // 4) * 4),
)
def test_a_slot_has_the_same_bits_in_a_batch_of_any_others(
    data: st.DataObject, num_slots: int, num_rows: int, rank: int, num_inputs: int
):
    """All products of an adapter; a promise for one thread."""
    first, last = data.draw(st.tuples(st.integers(0, num_slots - 1), st.integers(1, num_slots)).filter(_is_range))
    a_KRI, h_KTR = numbers(num_slots, rank, num_inputs), numbers(num_slots, num_rows, rank, seed=1)
    if not is_batched(num_rows, a_KRI[0], torch.float32):
        return
    x_KTI = numbers(num_slots * num_rows + 3, num_inputs, seed=2)[3:].unflatten(0, (num_slots, num_rows))
    b_KIR = numbers(num_slots, num_inputs, rank, seed=4)

    def products(of: slice) -> list[Tensor]:
        a, h, x, b = a_KRI[of].clone(), h_KTR[of].clone(), x_KTI[of].clone(), b_KIR[of].clone()
        sums = x.clone(), x.clone()
        add_product(sums[0], h, b)
        add_product(sums[1], h, a.mT)
        return [*sums, product(x, a), product(x, b.mT), product(h.mT, x.mT), product(x.mT, h.mT)]

    for together, alone in zip(products(slice(None)), products(slice(first, last)), strict=True):
        assert torch.equal(together[first:last], alone)


def test_what_is_batched():
    a_RI = numbers(16, 576)
    assert is_batched(32, a_RI, torch.float32)
    assert not is_batched(32, a_RI[:15], torch.float32), "no promise of bits"
    assert not is_batched(32, a_RI[:, :574], torch.float32), "no promise of bits"
    assert not is_batched(4096, a_RI, torch.float32), "a kernel for large products is faster"
    assert not is_batched(32, a_RI, torch.bfloat16)


def _is_range(ends: tuple[int, int]) -> bool:
    return ends[0] < ends[1]


@pytest.mark.parametrize("num_rows", [16, 4096])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes_take_torchs_own_kernels(dtype: torch.dtype, num_rows: int):
    assert (2 * num_rows * 32 * 64 >= ONEDNN_FLOP) == (num_rows == 4096)
    x_NI, weight_OI, bias_O = (numbers(*shape).to(dtype) for shape in ((num_rows, 64), (32, 64), (32,)))
    assert torch.equal(frozen_product(x_NI, weight_OI, bias_O), F.linear(x_NI, weight_OI, bias_O))
    assert torch.equal(product(x_NI, weight_OI), x_NI @ weight_OI.t())
    sum_NO, wanted_NO = torch.ones(2, num_rows, 32, dtype=dtype)
    add_product(sum_NO, x_NI, weight_OI)
    assert torch.equal(sum_NO, wanted_NO.addmm_(x_NI, weight_OI.t()))


@pytest.mark.parametrize("num_rows", [0, 1, 4096])
def test_shapes_are_told_without_values(num_rows: int):
    x_NI, weight_OI = torch.empty(num_rows, 64, device="meta"), torch.empty(32, 64, device="meta")
    sum_NO = torch.empty(num_rows, 32, device="meta")
    add_product(sum_NO, x_NI, weight_OI)
    for found in (frozen_product(x_NI, weight_OI), product(x_NI, weight_OI), sum_NO):
        assert (found.shape, found.device.type) == ((num_rows, 32), "meta")


@pytest.mark.parametrize("is_transposed", [False, True])
def test_no_rows_give_no_rows(is_transposed: bool):
    x_NI, weight_OI, sum_NO = torch.empty(0, 64), weight_of(32, 64, is_transposed), torch.empty(0, 32)
    add_product(sum_NO, x_NI, weight_OI)
    for found in (frozen_product(x_NI, weight_OI, numbers(32)), product(x_NI, weight_OI), sum_NO):
        assert found.shape == (0, 32)
    # A gradient of a matrix over no rows: the inner dimension is the empty one.
    assert torch.equal(product(sum_NO.t(), x_NI.t()), torch.zeros(32, 64))
