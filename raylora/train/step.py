"""One optimizer step of some slots: micro-batches in, one update of each slot out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raylora.data.collate import Batch
from raylora.errors import NonFiniteLossError
from raylora.model.route import Span
from raylora.model.seed import stable_seed
from raylora.train.build import Trainee
from raylora.train.forward import Piece, idle_losses, losses_of


@dataclass(frozen=True)
class Share:
    """This rank's part of one slot's step.

    Args:
        slot: Which.
        step: From 0; seeds dropout.
        learning_rate: Of this step.
        batches: This rank's micro-batches; equally many on every rank that shares the slot.
        seed: Of the slot's run; with the step it seeds what draws from torch's own generator, with one slot only:
            dropout of the base, PEFT's dropout.
    """

    slot: int
    step: int
    learning_rate: float
    batches: Sequence[Batch]
    seed: int = 0


@dataclass(frozen=True)
class StepResult:
    """What one step did to one slot, summed over ranks.

    Args:
        loss: Mean loss of the step's labelled tokens.
        num_tokens: Tokens that are not padding.
        grad_norm: Norm of the adapter's gradient before clipping.
    """

    loss: float
    num_tokens: int
    grad_norm: float


def train_step(trainee: Trainee, shares: Sequence[Share]) -> dict[int, StepResult | NonFiniteLossError]:
    """Forward and backward of every micro-batch, then one update of each slot.

    A slot's loss is the mean over all its labelled tokens of all ranks and micro-batches, so that accumulation and the
    number of workers change nothing but the order of sums. No value of one slot enters another: what one is told, it
    would be told alone.

    Args:
        trainee: The base and its slots.
        shares: One for each slot that steps; the same slots on every rank that shares them.

    Returns:
        By slot what the step did, or the error where its loss or the norm of its gradient was NaN or Inf; such a slot
        was not updated.
    """
    totals = _totals(trainee, shares)
    sums: dict[int, list[Tensor]] = {share.slot: [] for share in shares}
    for micro_step in range(trainee.num_passes(max((len(share.batches) for share in shares), default=0))):
        present = [share for share in shares if micro_step < len(share.batches)]
        if not present:
            idle_losses(trainee).sum().backward()
            continue
        losses = [losses_N.sum() for losses_N in _forward(trainee, present, micro_step)]
        means = [loss / totals[share.slot].num_labels for share, loss in zip(present, losses, strict=True)]
        trainee.backward(torch.stack(means).sum())
        for share, loss in zip(present, losses, strict=True):
            sums[share.slot].append(loss.detach())
    if not shares:
        return {}
    losses_S = trainee.slot_ranks.sum(torch.stack([torch.stack(sums[share.slot]).sum() for share in shares]))
    unsummed = [trainee.steppers[share.slot].unsummed for share in shares]
    trainee.slot_ranks.sum_together([row for row in unsummed if row is not None])
    return {
        share.slot: _update(trainee, share, sums[share.slot], loss, totals[share.slot])
        for share, loss in zip(shares, losses_S.tolist(), strict=True)
    }


@dataclass(frozen=True)
class _Total:
    """A slot's tokens of one step over all ranks that share it."""

    num_labels: int
    num_tokens: int


def _totals(trainee: Trainee, shares: Sequence[Share]) -> dict[int, _Total]:
    counts = [
        [sum(b.num_label_tokens for b in share.batches), sum(b.num_tokens for b in share.batches)] for share in shares
    ]
    sums = trainee.slot_ranks.sum(torch.tensor(counts, device=trainee.device)).tolist()
    return {share.slot: _Total(*of_slot) for share, of_slot in zip(shares, sums, strict=True)}


def _forward(trainee: Trainee, shares: Sequence[Share], micro_step: int) -> tuple[Tensor, ...]:
    torch.manual_seed(stable_seed("step", shares[0].seed, shares[0].step, micro_step, trainee.slot_ranks.rank))
    pieces = [Piece(Span(share.slot, step=share.step), share.batches[micro_step]) for share in shares]
    return losses_of(trainee, pieces)


def _update(
    trainee: Trainee, share: Share, sums: list[Tensor], loss_sum: float, total: _Total
) -> StepResult | NonFiniteLossError:
    stepper = trainee.steppers[share.slot]
    loss = loss_sum / total.num_labels
    if not math.isfinite(loss):
        stepper.forget()
        return _not_finite(trainee, share, sums, f"loss is {loss}")
    grad_norm = stepper.step(share.learning_rate)
    if not math.isfinite(grad_norm):
        return _not_finite(trainee, share, sums, f"the gradient's norm is {grad_norm}")
    return StepResult(loss, total.num_tokens, grad_norm)


def _not_finite(trainee: Trainee, share: Share, sums: list[Tensor], what: str) -> NonFiniteLossError:
    """The error that names the rows of the micro-batches without a finite loss, or of all where each has one."""
    mine = [(batch.row_ids, bool(torch.isfinite(total))) for batch, total in zip(share.batches, sums, strict=True)]
    dealt = [part for of_rank in trainee.slot_ranks.gather(mine) for part in of_rank]
    suspects = [lines for lines, is_finite in dealt if not is_finite] or [lines for lines, _ in dealt]
    rows = sorted({row for lines in suspects for line in lines for row in line})
    return NonFiniteLossError(
        f"{what} at step {share.step + 1}, in the rows {rows}; nothing was updated in this step. "
        "Look at these rows, lower learning_rate, or set max_grad_norm",
        rows,
    )
