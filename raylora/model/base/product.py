"""Matrix products of a CPU in float32, by the fastest kernels that torch carries.

torch's own ``mm`` calls MKL, whose float32 kernels leave half of an AVX-512 CPU of AMD idle; oneDNN's do not, and are
no slower elsewhere. Its call costs ten microseconds more, so small products stay with ``mm``. Other devices and dtypes
keep torch's choice. Called by the frozen layers, the low-rank layers and the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ONEDNN_FLOP = 2**21
"""From this many floating-point operations on, oneDNN's kernel is worth its call."""


def frozen_product(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, each row the same bits whatever rows lie beside it.

    That is what makes a pack of adapters train to the bits of each adapter alone: rows of all of them share this
    product.

    Args:
        x_NI: Rows that may belong to several slots; none at all are allowed.
        weight_OI: The frozen weight, as a view where it is transposed.
        bias_O: The layer's bias, if it has one.

    Shapes:
        x_NI: (N, I). weight_OI: (O, I), any strides. bias_O: (O,) or None. Returns (N, O).
    """
    if not _has_onednn(x_NI, weight_OI):
        return F.linear(x_NI, weight_OI, bias_O)
    if len(x_NI) == 1:  # one row alone takes another kernel, which sums in another order
        return _onednn(x_NI.repeat(2, 1), weight_OI, bias_O)[:1]
    return _onednn(x_NI, weight_OI, bias_O)


def product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """``x @ weight.T`` by whichever kernel is faster for its size; shapes as in :func:`frozen_product`.

    Args:
        x_NI: Rows of one slot; or of several, (K, N, I), which `is_batched` allows.
        weight_OI: One of its matrices, or a gradient in that place; or one for each slot, (K, O, I).
    """
    if x_NI.ndim == 2 and _is_large(x_NI, weight_OI):
        return _onednn(x_NI, weight_OI, None)
    return x_NI @ weight_OI.mT


def add_product(sum_NO: Tensor, x_NI: Tensor, weight_OI: Tensor) -> None:
    """Add ``x @ weight.T`` to a sum; shapes as in :func:`frozen_product`.

    Args:
        sum_NO: (N, O), or (K, N, O) for several slots; changed in place.
        x_NI: As in `product`.
        weight_OI: As in `product`.
    """
    if x_NI.ndim == 3:
        sum_NO.baddbmm_(x_NI, weight_OI.mT)
    elif _is_large(x_NI, weight_OI):
        sum_NO.add_(_onednn(x_NI, weight_OI, None))
    else:
        sum_NO.addmm_(x_NI, weight_OI.mT)


def is_batched(num_rows: int, weight_OI: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of several slots with matrices of this shape are one call.

    On a GPU always. On a CPU where that call is faster, and gives each slot the bits of a call of its own: in float32
    MKL's does where all rows of the matrices begin at multiples of 16 bytes.

    Args:
        num_rows: Of each slot.
        weight_OI: A matrix of one of them.
        dtype: Of the rows.
    """
    if weight_OI.is_cuda:
        return True
    is_aligned = all(size % 4 == 0 for size in weight_OI.shape)
    return dtype == torch.float32 and is_aligned and not _is_worth_onednn(num_rows, weight_OI)


def _onednn(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, "none", [], "")
    return y_NO


def _is_large(x_NI: Tensor, weight_OI: Tensor) -> bool:
    return _is_worth_onednn(len(x_NI), weight_OI) and _has_onednn(x_NI, weight_OI)


def _is_worth_onednn(num_rows: int, weight_OI: Tensor) -> bool:
    return 2 * num_rows * weight_OI.numel() >= ONEDNN_FLOP


def _has_onednn(x_NI: Tensor, weight_OI: Tensor) -> bool:
    is_float32 = x_NI.dtype == weight_OI.dtype == torch.float32
    return is_float32 and x_NI.device.type == "cpu" and len(x_NI) > 0 and torch.backends.mkldnn.is_available()
