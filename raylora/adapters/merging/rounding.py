"""What rounding a weight to few bits costs, and weights that are rounded already.

Formats and weights enter; relative errors and rounded weights leave. Called by merging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raylora.errors import RunFailedError
from raylora.model.base.load import quant_format
from raylora.model.base.quant import QuantFormat
from raylora.spec.fields.base import BaseFields
from raylora.spec.fields.holding import FIELDS

MAX_PASSES = 16


@dataclass(frozen=True)
class Spread:
    """A number of each layer, over layers.

    Args:
        mean: Over all.
        max: The largest.
    """

    mean: float
    max: float


@dataclass(frozen=True)
class Holding:
    """How a run held its base.

    Args:
        form: How its linear layers were packed.
        dtype: To which they were cast before.
    """

    form: QuantFormat
    dtype: torch.dtype

    def rounded(self, weight_OI: Tensor) -> Tensor:
        """A weight as the run computed with it, up to what unpacking into the run's own dtype rounds off.

        Args:
            weight_OI: As the base's file has it.

        Shapes:
            weight_OI: (O, I). Returns (O, I), float32.
        """
        return rounded(self.form, weight_OI.to(self.dtype).float())


def spread_of(values: Sequence[float]) -> Spread | None:
    """Mean and largest of some numbers, ``None`` where there are none."""
    return Spread(sum(values) / len(values), max(values)) if values else None


def format_of(word: str) -> QuantFormat | None:
    """The format that a word asks for; ``None`` for a base that is not quantized.

    Args:
        word: A key of `raylora.spec.fields.holding.FIELDS`.
    """
    return quant_format(BaseFields.model_validate({"base_model": "any", **FIELDS[word]}), torch.uint8)


def rounded(form: QuantFormat, weight_OI: Tensor) -> Tensor:
    """A weight after it was packed and unpacked.

    Args:
        form: How.
        weight_OI: float32, bfloat16 or float16.

    Shapes:
        weight_OI: (O, I). Returns (O, I) in the same dtype.
    """
    return form.unpack(form.pack(weight_OI), (weight_OI.shape[0], weight_OI.shape[1]), weight_OI.dtype)


def settled(form: QuantFormat, weight_OI: Tensor) -> Tensor:
    """Round a weight to values that the format keeps: packing them again, in the same dtype, changes none.

    In 4 bits one pass does it: the largest value of a block is its scale, stands for itself in the code, and comes back
    as it was, so that the others meet the same scale again. The scale of an int8 row comes back multiplied by 127 and
    by 1/127, in float32 now and then a bit smaller, and is itself after a few passes at most. Double quantization has
    no such values: it takes the mean of the scales off them, which is another one for rounded scales, and they are
    rounded again to another grid.

    Args:
        form: Without double quantization.
        weight_OI: float32, bfloat16 or float16.

    Shapes:
        weight_OI: (O, I). Returns (O, I) in the same dtype.

    Raises:
        RunFailedError: The values keep changing.
    """
    for _ in range(MAX_PASSES):
        again_OI = rounded(form, weight_OI)
        if torch.equal(again_OI, weight_OI):
            return weight_OI
        weight_OI = again_OI
    raise RunFailedError(
        f"--requantize: values of {form.kind} changed at each of {MAX_PASSES} passes in {weight_OI.dtype}; "
        "write float32 with --dtype, or leave --requantize out"
    )


def rounding_error(held: Holding, weight_OI: Tensor) -> float:
    """How far rounding takes a weight, ||W - Q(W)|| / ||W|| in Frobenius norms.

    Args:
        held: Of Q.
        weight_OI: W, of any float dtype.

    Shapes:
        weight_OI: (O, I).
    """
    whole_OI = weight_OI.float()
    return ratio(held.rounded(weight_OI) - whole_OI, whole_OI)


def ratio(part: Tensor, whole: Tensor) -> float:
    """Norm of one tensor over that of another, 0 where the other is zero.

    Args:
        part: Above the line.
        whole: Below it.
    """
    size = float(torch.linalg.vector_norm(whole))
    return float(torch.linalg.vector_norm(part)) / size if size else 0.0
