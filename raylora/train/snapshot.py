"""A training state as a checkpoint that knows neither world size nor strategy, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from raylora.errors import StoreError
from raylora.store.checkpoint import Checkpoint
from raylora.train.trainee import Trainee

ADAPTER, OPTIMIZER, ALLOCATION = "adapter/", "optimizer/", "allocation/"


@dataclass
class Progress:
    """Where a run stands beside its tensors; schedule, seeds and rows follow from the step.

    Args:
        step: Optimizer steps done.
        num_tokens: Tokens seen that are not padding.
        train_loss: Loss of the last step.
        eval_loss_before: Validation loss before the first step.
        eval_loss: Newest validation loss.
        eval_metrics: What else was told of the validation rows then, by name.
        eval_step: Optimizer steps done when they were found.
        best_eval_loss: Lowest validation loss.
        num_worse: Evaluations since the lowest.
        samples_before: Answers before the first step.
        train_s: Seconds spent in steps.
    """

    step: int = 0
    num_tokens: int = 0
    train_loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss: float | None = None
    eval_metrics: dict[str, float] = field(default_factory=dict)
    eval_step: int | None = None
    best_eval_loss: float | None = None
    num_worse: int = 0
    samples_before: list[str] = field(default_factory=list)
    train_s: float = 0.0


def take(trainee: Trainee, slot: int, progress: Progress, digests: dict[str, str]) -> Checkpoint:
    """Gather what trains in a slot, its optimizer and progress; called on every rank that shares it.

    The first of these ranks gets the tensors, in host memory: the one copy that is made, which stays as it is while
    training goes on. The others take part and keep nothing.

    Args:
        trainee: What is trained.
        slot: Which.
        progress: Where it stands.
        digests: Of base, data and configuration; a resumed run must meet the same.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, named in _states(trainee, slot).items():
        for name, tensor in named:
            if trainee.slot_ranks.rank == 0:
                tensors[prefix + name] = tensor.detach().to("cpu", copy=True)
            del tensor  # before the next one is gathered: no device has room for both
    state: dict[str, Any] = {"progress": asdict(progress), "digests": digests, "slot": slot}
    eval_loss = progress.eval_loss if progress.eval_step == progress.step else None
    return Checkpoint(progress.step, tensors, state, eval_loss=eval_loss)


def restore(trainee: Trainee, slot: int, checkpoint: Checkpoint, digests: dict[str, str]) -> Progress:
    """Let a slot go on from a checkpoint; called on every rank that shares it.

    Args:
        trainee: Built for the same spec; any world size.
        slot: Which; admitted with the adapter's settings.
        checkpoint: From :func:`take`, of any slot.
        digests: Of base, data and configuration, as this run found them; one that the checkpoint does not have, since
            it was written before there was such a digest, is not asked for.

    Raises:
        StoreError: The checkpoint was made on another base or other data, by a run that was asked for otherwise, or by
            another kind of optimizer.
    """
    for name, digest in digests.items():
        saved = checkpoint.state["digests"].get(name, digest)
        if saved != digest:
            raise StoreError(
                f"checkpoint of step {checkpoint.step}: its {name} digest is {saved[:12]}, this run's is "
                f"{digest[:12]}; restore the same {name}, or start a new run"
            )
    tensors = checkpoint.tensors
    trainee.bank.load(slot, _under(ADAPTER, tensors))
    trainee.steppers[slot].load_state(_under(OPTIMIZER, tensors))
    if (allocation := trainee.allocations.get(slot)) is not None:
        allocation.load_state(_under(ALLOCATION, tensors))
    return Progress(**checkpoint.state["progress"])


def _states(trainee: Trainee, slot: int) -> dict[str, Iterator[tuple[str, Tensor]]]:
    """All tensors of a slot, live or just gathered, by what they are of; collective, to the end of each."""
    states = {ADAPTER: trainee.bank.state(slot), OPTIMIZER: trainee.steppers[slot].state()}
    allocation = trainee.allocations.get(slot)
    return states if allocation is None else states | {ALLOCATION: allocation.state()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
