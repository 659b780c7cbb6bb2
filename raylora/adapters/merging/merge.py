"""An adapter merged into its base in float32, W + scale B A or as PEFT merges it, and rounded once to what is written.

A plan enters; the folder of a model without adapters leaves. It is merged into the base's own weights; into those of
the base as it was quantized, in full precision, where it has what quantization took. Called by the command ``merge``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from raylora.adapters.merging.plan import MergePlan
from raylora.adapters.merging.rounding import Spread, ratio, rounding_error, settled, spread_of
from raylora.adapters.model_files import copy_model_files
from raylora.adapters.shards import write_shards
from raylora.errors import RunFailedError
from raylora.model.base.weights import Weights


@dataclass(frozen=True)
class Merged:
    """What was written.

    Args:
        files: Names of the weight files.
        num_bytes: Of these files.
        rounding_error: Of the quantized base that the adapter was trained on against the one it is merged into, over
            the adapted layers: ||W - Q(W)|| / ||W||. ``None`` where the base was not quantized, nobody says, or it is
            merged into that base itself.
        requantize_error: Of the written weights against the merged ones, over the same layers: relative to the
            merged weight M, ||Q(M) - M|| / ||M||. ``None`` where nothing was requantized.
        requantize_over_update: The same error relative to the update: ||Q(M) - M|| / ||M - W||. Where it is above 1,
            more was rounded off than the adapter had put on.
    """

    files: list[str]
    num_bytes: int
    rounding_error: Spread | None
    requantize_error: Spread | None
    requantize_over_update: Spread | None


@dataclass
class _Errors:
    """Relative errors, a number for each adapted layer."""

    of_base: list[float] = field(default_factory=list)
    of_merged: list[float] = field(default_factory=list)
    over_update: list[float] = field(default_factory=list)


def write_merged(plan: MergePlan, folder: Path, report: Callable[[], None] = lambda: None) -> Merged:
    """Write the merged model, file by file.

    Args:
        plan: What is written.
        folder: An empty one.
        report: Told of each tensor that is done.

    Raises:
        RunFailedError: A merged weight is not finite in the dtype that is written.
    """
    weights, errors = Weights(plan.base.path), _Errors()

    def read(name: str) -> Tensor:
        tensor = _written(plan, name, weights.read(name), errors)
        report()
        return tensor

    files = write_shards(folder, plan.sizes, plan.settings.max_shard_bytes, read)
    copy_model_files(plan.base.path, folder, plan.dtype, plan.settings.chat_template)
    return Merged(
        files=files,
        num_bytes=sum((folder / file).stat().st_size for file in files),
        rounding_error=spread_of(errors.of_base),
        requantize_error=spread_of(errors.of_merged),
        requantize_over_update=spread_of(errors.over_update),
    )


def _written(plan: MergePlan, name: str, weight: Tensor, errors: _Errors) -> Tensor:
    """One tensor of the base as the merged model has it."""
    dtype, change, form = plan.dtypes.get(name), plan.changes.get(name), plan.requantize
    if dtype is None:
        return weight
    if plan.rounding is not None and name in plan.linear:
        weight = plan.rounding.rounded(weight)
    whole = weight if change is None else change.applied(weight)
    written = whole.to(dtype)
    if written is not weight and not bool(torch.isfinite(written).all()):
        raise RunFailedError(
            f"merge: {name} has values that are not finite in {dtype}; nothing was kept. Allowed: another --dtype, "
            "bfloat16 and float32 reach as far as each other"
        )
    if form is not None and name in plan.linear:
        written = settled(form, written)
    if change is not None:
        _note(plan, name, (weight, whole, written), errors)
    return written


def _note(plan: MergePlan, name: str, tensors: tuple[Tensor, Tensor, Tensor], errors: _Errors) -> None:
    """Take down what rounding did to an adapted layer: its base's, before, and the merged weight's, after."""
    if name not in plan.linear:
        return
    weight_OI, whole_OI, written_OI = tensors
    if plan.trained_on is not None and plan.rounding is None:
        errors.of_base.append(rounding_error(plan.trained_on, weight_OI))
    if plan.requantize is None:
        return
    lost_OI, update_OI = written_OI.float() - whole_OI, whole_OI - weight_OI.float()
    errors.of_merged.append(ratio(lost_OI, whole_OI))
    if bool(update_OI.any()):  # of an update of nothing no part is lost
        errors.over_update.append(ratio(lost_OI, update_OI))
