"""One optimizer step: micro-batches in, one update out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raylora.data.collate import Batch, attention_mask
from raylora.errors import NonFiniteLossError
from raylora.model.seed import stable_seed
from raylora.objectives.sft import slot_sums
from raylora.train.build import Trainee


@dataclass(frozen=True)
class StepResult:
    """What one step did, summed over ranks.

    Args:
        loss: Mean loss of the step's labelled tokens.
        num_tokens: Tokens that are not padding.
        grad_norm: Norm of the adapter's gradient before clipping.
    """

    loss: float
    num_tokens: int
    grad_norm: float


def model_inputs(batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """The keyword arguments of a model that computes in ``dtype`` for a batch.

    Args:
        batch: On the model's device.
        dtype: What the model computes in.
    """
    inputs = {"input_ids": batch.input_ids_BT, "position_ids": batch.position_ids_BT}
    mask = attention_mask(batch, dtype)
    return inputs if mask is None else inputs | {"attention_mask": mask}


def train_step(trainee: Trainee, batches: Sequence[Batch], step: int, learning_rate: float) -> StepResult:
    """Forward and backward of every micro-batch, then one update.

    The loss is the mean over all labelled tokens of all ranks and micro-batches, so that accumulation and
    the number of workers change nothing but the order of sums.

    Args:
        trainee: What is trained.
        batches: This rank's micro-batches; equally many on every rank.
        step: From 0; seeds dropout.
        learning_rate: Of this step.

    Raises:
        NonFiniteLossError: A loss or the gradient's norm was NaN or Inf; nothing was updated.
    """
    ranks, num_slots = trainee.ranks, trainee.bank.num_slots
    batches = [batch.to(trainee.device) for batch in batches]
    counts = torch.tensor([sum(b.num_label_tokens for b in batches), sum(b.num_tokens for b in batches)])
    num_labels, num_tokens = ranks.sum(counts.to(trainee.device)).tolist()
    sums = []
    for micro_step, batch in enumerate(batches):
        # For what draws from torch's own generator: dropout of the base, PEFT's dropout.
        torch.manual_seed(stable_seed("step", trainee.spec.seed, step, micro_step, ranks.rank))
        trainee.bank.begin(step, micro_step, ranks.rank)
        losses_N = trainee.loss(model_inputs(batch, trainee.model.dtype), batch.labels_BT)
        sums_K, _ = slot_sums(losses_N, batch.labels_BT, num_slots)
        trainee.stepper.backward(sums_K.sum() / num_labels)
        sums.append(sums_K.sum().detach())
    loss = float(ranks.sum(torch.stack(sums).sum())) / num_labels
    if not math.isfinite(loss):
        raise _not_finite(trainee, batches, sums, step, f"loss is {loss}")
    grad_norm = trainee.stepper.step(learning_rate)
    if not math.isfinite(grad_norm):
        raise _not_finite(trainee, batches, sums, step, f"the gradient's norm is {grad_norm}")
    return StepResult(loss, num_tokens, grad_norm)


def _not_finite(
    trainee: Trainee, batches: Sequence[Batch], sums: Sequence[Tensor], step: int, what: str
) -> NonFiniteLossError:
    """The error that names the rows of the micro-batches without a finite loss, or of all where each has one."""
    mine = [(batch.row_ids, bool(torch.isfinite(total))) for batch, total in zip(batches, sums, strict=True)]
    dealt = [part for of_rank in trainee.ranks.gather(mine) for part in of_rank]
    suspects = [lines for lines, is_finite in dealt if not is_finite] or [lines for lines, _ in dealt]
    rows = sorted({row for lines in suspects for line in lines for row in line})
    return NonFiniteLossError(
        f"{what} at step {step + 1}, in the rows {rows}; nothing was updated in this step. "
        "Look at these rows, lower learning_rate, or set max_grad_norm",
        rows,
    )
