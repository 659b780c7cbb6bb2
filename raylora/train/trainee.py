"""A base placed on the ranks with adapters in its slots, or one that trains itself: what steps, as one rank sees it.

`build` makes one; the step, evaluation and the loops work with it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.adapter.bank import Adapter, AdapterBank
from raylora.model.adapter.slot import slot_of
from raylora.model.bank.heads import without_head
from raylora.model.base.positions import uncounted_token
from raylora.model.base.task_class import sees_both_sides
from raylora.model.rows.bins import joins_texts
from raylora.model.rows.own_dropout import own_dropout
from raylora.model.targets import match_targets
from raylora.objectives.choose import objective_of
from raylora.objectives.objective import Objective
from raylora.objectives.readout import Readout
from raylora.spec.packing import why_alone
from raylora.spec.run import RunSpec
from raylora.spec.value_shape import ValueShape, value_shape
from raylora.strategy.contract import Stepper, Strategy
from raylora.train.admission import start_of
from raylora.train.allocation import Allocation
from raylora.train.ranks import Ranks
from raylora.train.steppers import stepper_of


@dataclass(frozen=True)
class Trainee:
    """A base placed on the ranks, and the slots that train on it, as one rank sees them.

    Args:
        spec: The run, or of a pack what its runs share.
        model: The base.
        bank: The adapters.
        strategy: What placed the base.
        readout: Reads out of a forward pass what the objectives need of each label.
        device: This rank's.
        ranks: All ranks, which hold the base together.
        slot_ranks: The ranks that share each slot's steps: all of them, or each one alone with slots of its own.
        why_padded: Why rows go in as padded lines, of one slot at a time; ``None`` where they go in one after the
            other, of any number of slots.
        why_not_binned: Why runs of the spec's `sequence_len` may not bin their rows here; ``None`` where they may.
        steppers: What updates each slot.
        objectives: What each slot minimises; all of one kind.
        allocations: Of slots with AdaLoRA that have begun, which of their ranks are left.
    """

    spec: RunSpec
    model: PreTrainedModel
    bank: AdapterBank
    strategy: Strategy
    readout: Readout
    device: torch.device
    ranks: Ranks
    slot_ranks: Ranks
    why_padded: str | None
    why_not_binned: str | None
    steppers: dict[int, Stepper] = field(default_factory=dict)
    objectives: dict[int, Objective] = field(default_factory=dict)
    allocations: dict[int, Allocation] = field(default_factory=dict)

    def admit(self, slot: int, spec: RunSpec) -> None:
        """Give a slot a new adapter and what updates it.

        Args:
            slot: A free one.
            spec: Of the run that trains there.

        Raises:
            ModelError: The adapter does not fit the base, the base would mix rows of the run's bins, or there is an
                adapter already and no second can train beside it.
            RunFailedError: There is no memory for it.
        """
        if joins_texts(self.model, spec) and self.why_not_binned is not None:
            raise ModelError(self.why_not_binned)
        if self.steppers and (why := self.why_one_slot):
            raise ModelError(
                f"{why}; got a second one, for slot {slot}, beside slot {min(self.steppers)}. Nothing was changed. "
                "Train each run alone, or one after the other"
            )
        with start_of(spec), ExitStack() as undo:
            self.bank.admit(slot, slot_of(spec), match_targets(self.model, spec))
            undo.callback(self.bank.release, slot)
            shared = self.strategy if self.slot_ranks == self.ranks else None
            self.steppers[slot] = stepper_of(spec, self.model, self.bank.parameters(slot), self.device, shared)
            self.objectives[slot] = objective_of(spec)
            undo.pop_all()

    def begin(self, slot: int, spec: RunSpec, num_steps: int) -> None:
        """Tell a slot how long its run will be.

        Args:
            slot: One with an adapter.
            spec: Of the run.
            num_steps: Of the whole run.

        Raises:
            InputError: The adapter's kind needs other steps.
        """
        if spec.adapter == "adalora":
            self.allocations[slot] = Allocation(spec, without_head(self.bank.parameters(slot)), num_steps)

    def export(self, slot: int) -> Adapter:
        """A slot's adapter as it is published."""
        adapter, allocation = self.bank.export(slot), self.allocations.get(slot)
        return adapter if allocation is None else allocation.published(adapter)

    def ranks_left(self, slot: int) -> dict[str, int]:
        """Ranks that are left of each layer, by its dotted name; empty where a kind takes none away."""
        allocation = self.allocations.get(slot)
        return {} if allocation is None else allocation.ranks

    @property
    def why_one_slot(self) -> str | None:
        """Why a rank trains the rows of one slot at a time, ``None`` where it can those of many."""
        if self.why_padded is not None:
            return f"base_model: {self.why_padded}, so it takes the rows of one adapter at a time"
        if (drawn := own_dropout(self.model.config)) is not None:
            return f"base_model: {drawn}, so the rows of one adapter would draw otherwise beside another's"
        return why_alone(self.spec)

    def release(self, slot: int) -> None:
        """Forget a slot's adapter."""
        del self.steppers[slot], self.objectives[slot]
        self.allocations.pop(slot, None)
        self.bank.release(slot)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss that sums over slots; slots do not meet in it."""
        next(iter(self.steppers.values())).backward(loss)

    @cached_property
    def sees_both_sides(self) -> bool:
        """Whether tokens see those after them: each text then has a line of its own, and padding is masked."""
        return sees_both_sides(self.model.config)

    @cached_property
    def uncounted_token(self) -> int | None:
        """The token that positions on a line are counted past; ``None`` where they begin at 0."""
        return uncounted_token(self.model) if self.sees_both_sides else None

    @cached_property
    def value_shape(self) -> ValueShape | None:
        """What goes in of each row; ``None`` where token ids do."""
        return value_shape(self.spec.task_type, self.model.config)

    @property
    def needs_reference(self) -> bool:
        """Whether passes without adapters go before those that train: on all ranks, also on one without a slot."""
        return objective_of(self.spec).needs_reference

    @property
    def needs_point(self) -> bool:
        """Whether a step, or an evaluation, begins with passes over mismatched rows."""
        return objective_of(self.spec).needs_point

    def num_passes(self, *nums_mine: int) -> list[int]:
        """Forward passes that this rank must run so that all run equally many, where they gather the base together.

        Args:
            nums_mine: Passes of each sort that it has rows for.
        """
        if self.slot_ranks == self.ranks or not self.strategy.shards_base:
            return list(nums_mine)
        return self.ranks.max(*nums_mine)

    def num_trainable(self, slot: int) -> int:
        """Values that train in a slot."""
        return sum(parameter.numel() for parameter in self.bank.parameters(slot).values())

    @property
    def frozen(self) -> list[nn.Parameter]:
        """The base's parameters that stay as they are: none where the base itself trains."""
        beside = {id(tensor) for slot in self.steppers for tensor in self.bank.frozen(slot)}  # PEFT's lie in the model
        return [each for each in self.model.parameters() if not each.requires_grad and id(each) not in beside]

    @property
    def base(self) -> list[nn.Parameter]:
        """The base's parameters, whether they train or not."""
        return list(self.model.parameters()) if self.spec.trains_base else self.frozen

    @property
    def held_base_bytes(self) -> int:
        """Bytes of the base that this rank holds between steps."""
        return sum(self.strategy.held_bytes(parameter) for parameter in self.base)

    @cached_property
    def base_bytes_per_rank(self) -> list[int]:
        """`held_base_bytes` of every rank as `build` found them."""
        return self.ranks.gather(self.held_base_bytes)

    def train_mode(self, training: bool) -> None:
        """Switch dropout, and with it gradient checkpointing, on or off."""
        self.model.train(training)
        self.bank.train(training)
