"""One optimizer step of some slots: micro-batches in, one update of each slot out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from raylora.data.collate import Batch
from raylora.errors import NonFiniteLossError
from raylora.model.rows.route import Span
from raylora.model.rows.seed import stable_seed
from raylora.objectives.objective import measured
from raylora.train.eva import start_from_inputs
from raylora.train.forward import Piece
from raylora.train.measure import Points, idle_sums, points_of, sums_of, texts_of
from raylora.train.trainee import Trainee


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
        start_rows: What the adapter starts from before this step, this rank's micro-batches; none where it has started.
        mismatched: What the step's reference point is found on, this rank's micro-batches; none where none is asked
            for.
    """

    slot: int
    step: int
    learning_rate: float
    batches: Sequence[Batch]
    seed: int = 0
    start_rows: Sequence[Batch] = ()
    mismatched: Sequence[Batch] = ()


@dataclass(frozen=True)
class StepResult:
    """What one step did to one slot, summed over ranks.

    Args:
        loss: What the slot minimises of its rows: the mean loss of the step's labelled tokens, pairs or answers.
        num_tokens: Tokens that are not padding.
        grad_norm: Norm of the adapter's gradient before clipping.
        metrics: What the objective tells beside its loss, by name, and as ``orth`` what AdaLoRA adds to it.
    """

    loss: float
    num_tokens: int
    grad_norm: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def told(self, learning_rate: float, seconds: float) -> dict[str, float]:
        """What is told of the step, by MLflow's names.

        Args:
            learning_rate: It was taken with.
            seconds: It took.
        """
        return {
            "train_loss": self.loss,
            "learning_rate": learning_rate,
            "grad_norm": self.grad_norm,
            "num_tokens": float(self.num_tokens),
            "tokens_per_s": self.num_tokens / seconds,
            **{f"train_{name}": value for name, value in self.metrics.items()},
        }


def train_step(trainee: Trainee, shares: Sequence[Share]) -> dict[int, StepResult | NonFiniteLossError]:
    """Forward and backward of every micro-batch, then one update of each slot.

    A slot's loss is a mean over all its labelled tokens, pairs or answers, of all ranks and micro-batches, so that
    accumulation and the number of workers change nothing but the order of sums. No value of one slot enters another:
    what one is told, it would be told alone.

    Args:
        trainee: The base and its slots.
        shares: One for each slot that steps; the same slots on every rank that shares them.

    Returns:
        By slot what the step did, or the error where its loss or the norm of its gradient was NaN or Inf; such a slot
        was not updated.
    """
    totals = _totals(trainee, shares)
    penalties = _penalise(trainee, shares)
    sums: dict[int, list[Tensor]] = {share.slot: [] for share in shares}
    num_looks, num_points, num_passes = trainee.num_passes(
        sum(len(share.start_rows) for share in shares),
        max((len(share.mismatched) for share in shares), default=0),
        max((len(share.batches) for share in shares), default=0),
    )
    start_from_inputs(trainee, {share.slot: share.start_rows for share in shares if share.start_rows}, num_looks)
    points = points_of(trainee, {share.slot: share.mismatched for share in shares}, num_points)
    for micro_step in range(num_passes):
        present = [share for share in shares if micro_step < len(share.batches)]
        if not present:
            idle_sums(trainee).sum().backward()
            continue
        measures = _measure(trainee, present, micro_step, points)
        losses = [_loss(trainee, share.slot, sums_M, totals[share.slot]) for share, sums_M in measures]
        trainee.backward(torch.stack(losses).sum())
        for share, sums_M in measures:
            sums[share.slot].append(sums_M.detach())
    if not shares:
        return {}
    sums_SM = trainee.slot_ranks.sum(torch.stack([torch.stack(sums[share.slot]).sum(0) for share in shares]))
    unsummed = [trainee.steppers[share.slot].unsummed for share in shares]
    trainee.slot_ranks.sum_together([row for row in unsummed if row is not None])
    return {
        share.slot: _update(trainee, share, sums[share.slot], sums_M, totals[share.slot], penalties.get(share.slot, {}))
        for share, sums_M in zip(shares, sums_SM, strict=True)
    }


def _penalise(trainee: Trainee, shares: Sequence[Share]) -> dict[int, dict[str, float]]:
    """Add the gradient of what slots minimise beside their rows, once a step; by slot what to tell of it.

    Each rank has all of it, and adds its part to what the ranks sum.
    """
    slots = [share.slot for share in shares if share.slot in trainee.allocations]
    found = {slot: penalty for slot in slots if (penalty := trainee.allocations[slot].penalty()) is not None}
    if found:
        trainee.backward(torch.stack(list(found.values())).sum() / trainee.slot_ranks.world_size)
    return {slot: {"orth": added.item()} for slot, added in found.items()}


@dataclass(frozen=True)
class _Total:
    """A slot's rows of one step over all ranks that share it: what each measure is divided by, and all tokens."""

    counts_M: Tensor
    num_tokens: int


def _totals(trainee: Trainee, shares: Sequence[Share]) -> dict[int, _Total]:
    counts = [[*_counts(trainee, share), sum(batch.num_tokens for batch in share.batches)] for share in shares]
    # One dtype on all ranks, whether or not this one's tokens have weights; whole numbers stay whole up to 2 to the 53.
    sums_SM = trainee.slot_ranks.sum(torch.tensor(counts, dtype=torch.float64, device=trainee.device))
    tokens = sums_SM[:, -1].tolist() if shares else []
    return {
        share.slot: _Total(counts_M, int(num_tokens))
        for share, counts_M, num_tokens in zip(shares, sums_SM[:, :-1] if shares else [], tokens, strict=True)
    }


def _counts(trainee: Trainee, share: Share) -> list[float]:
    """Over this rank's micro-batches."""
    objective = trainee.objectives[share.slot]
    of_batches = [objective.counts(texts_of(batch)) for batch in share.batches]
    return [sum(of_measure) for of_measure in zip(*of_batches, strict=True)]


def _measure(trainee: Trainee, shares: Sequence[Share], micro_step: int, points: Points) -> list[tuple[Share, Tensor]]:
    """Each slot's sums of its measures."""
    pieces = [Piece(Span(share.slot, step=share.step), share.batches[micro_step]) for share in shares]
    torch.manual_seed(stable_seed("step", shares[0].seed, shares[0].step, micro_step, trainee.slot_ranks.rank))
    return list(zip(shares, sums_of(trainee, pieces, points), strict=True))


def _loss(trainee: Trainee, slot: int, sums_M: Tensor, total: _Total) -> Tensor:
    num_losses = trainee.objectives[slot].num_losses
    return (sums_M[:num_losses] / total.counts_M[:num_losses].to(sums_M.dtype)).sum()


def _update(
    trainee: Trainee,
    share: Share,
    sums: list[Tensor],
    sums_M: Tensor,
    total: _Total,
    penalty: Mapping[str, float],
) -> StepResult | NonFiniteLossError:
    stepper = trainee.steppers[share.slot]
    found = measured(trainee.objectives[share.slot], (sums_M.double() / total.counts_M).tolist())
    if not math.isfinite(found.loss):
        stepper.forget()
        return _not_finite(trainee, share, sums, f"loss is {found.loss}")
    allocation = trainee.allocations.get(share.slot)
    updated = None if allocation is None else partial(allocation.after_update, share.step + 1)
    grad_norm = stepper.step(share.learning_rate, updated)
    if not math.isfinite(grad_norm):
        return _not_finite(trainee, share, sums, f"the gradient's norm is {grad_norm}")
    return StepResult(found.loss, total.num_tokens, grad_norm, {**found.metrics, **penalty})


def _not_finite(trainee: Trainee, share: Share, sums: list[Tensor], what: str) -> NonFiniteLossError:
    """The error that names the rows of the micro-batches without a finite loss, or of all where each has one."""
    mine = [
        (batch.row_ids, bool(torch.isfinite(sums_M).all())) for batch, sums_M in zip(share.batches, sums, strict=True)
    ]
    dealt = [part for of_rank in trainee.slot_ranks.gather(mine) for part in of_rank]
    suspects = [lines for lines, is_finite in dealt if not is_finite] or [lines for lines, _ in dealt]
    rows = sorted({row for lines in suspects for line in lines for row in line})
    return NonFiniteLossError(
        f"{what} at step {share.step + 1}, in the rows {rows}; nothing was updated in this step. "
        "Look at these rows, lower learning_rate, or set max_grad_norm",
        rows,
    )
