"""One run in one slot: its rows, where it stands, what it does next. It knows no other run of the pack.

Called by the loops: `loop.Training` for a run alone, the runtime's pack for many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.errors import NonFiniteLossError, StoreError
from raylora.objectives.objective import Measured
from raylora.spec.run import RunSpec
from raylora.store.checkpoint import Checkpoint
from raylora.train.cursors import CURSORS, check_cursors, cursors
from raylora.train.eva import NUM_STEPS
from raylora.train.events import Event, EventKind, Hooks
from raylora.train.outcome import Ending
from raylora.train.schedule import learning_rate
from raylora.train.snapshot import Progress, restore, take
from raylora.train.step import Share, StepResult
from raylora.train.tail import Tail
from raylora.train.trainee import Trainee
from raylora.train.writing import Writing

NUM_PLACES = 3
"""Rows whose file and line an error names."""


class Member:
    """One run on one rank, its adapter in a slot.

    Args:
        trainee: The base; the slot is admitted already.
        slot: Where its adapter is.
        spec: The run.
        rows: Training batches.
        validation: Validation batches, if any.
        hooks: Whom to tell.
        digests: Of base, data and configuration.
        max_tokens: Tokens after which it has finished; the step that reaches them is its last, and its schedule's.

    Raises:
        InputError: The adapter's kind needs other steps than the run has.
    """

    def __init__(
        self,
        trainee: Trainee,
        slot: int,
        spec: RunSpec,
        rows: Batches,
        validation: Batches | None,
        hooks: Hooks,
        digests: dict[str, str],
        max_tokens: int | None = None,
    ) -> None:
        self._trainee, self.slot, self.spec = trainee, slot, spec
        self._rows, self.validation = rows, validation
        self._hooks, self._digests = hooks, digests
        self.progress, self._tail = Progress(), Tail()
        self._writing, self._saved_step = Writing(trainee.slot_ranks, self._write), -1
        self._sound_step = -1  # the newest whose weights gave a finite loss
        num_steps = spec.max_steps or rows.num_steps(spec.num_epochs)
        self.num_steps = num_steps if max_tokens is None else rows.num_steps_holding(max_tokens, num_steps)
        trainee.begin(slot, spec, self.num_steps)

    def restore(self, checkpoint: Checkpoint, tells_again: bool = False) -> None:
        """Go on from a checkpoint, and give up those of the run that are beyond it.

        Args:
            checkpoint: Of this run or of another.
            tells_again: It is of this run, and what was told before it is told once more: who heard it passes it over.
        """
        self.progress = restore(self._trainee, self.slot, checkpoint, self._digests)
        check_cursors(checkpoint, cursors(self.spec, self._rows, checkpoint.step, self.num_steps))
        self._writing.uri, self._saved_step = checkpoint.uri, checkpoint.step
        self._sound_step = checkpoint.step - 1  # what was saved before it was gone on from
        events = self._tail.load(checkpoint.state) if tells_again else []
        if self._trainee.slot_ranks.rank == 0:
            self._hooks.give_up_beyond(checkpoint.step)
            for event in events:
                self._hooks.emit(event)

    def hand_over(self) -> Checkpoint:
        """This moment, for another rank that goes on with the run; what is on its way to the store is there."""
        with suppress(StoreError):  # the rank that goes on saves anew
            self._writing.settle()
        return replace(self._take(), uri=self._writing.uri)

    def take_over(self, moment: Checkpoint) -> None:
        """Go on where another rank stood.

        Args:
            moment: From its `hand_over`; it is kept nowhere.
        """
        self.progress = restore(self._trainee, self.slot, moment, self._digests)
        self._tail.load(moment.state)
        self._writing.uri, self._sound_step = moment.uri, moment.step - 1

    @property
    def ending(self) -> Ending | None:
        """How it ended, ``None`` while there is more to do."""
        patience = self.spec.early_stopping_patience
        if patience is not None and self.progress.num_worse >= patience:
            return "early_stopped"
        return "finished" if self._is_through else None

    @property
    def _is_through(self) -> bool:
        return self.progress.step >= self.num_steps

    def share(self) -> Share:
        """This rank's part of the next step."""
        step = self.progress.step
        rate = learning_rate(self.spec, step, self.num_steps)
        return Share(
            self.slot, step, rate, self._batches(step), self.spec.seed, self._start_rows(), self._mismatched(step)
        )

    def _batches(self, step: int) -> list[Batch]:
        ranks = self._trainee.slot_ranks
        return self._rows.step(step, ranks.rank, ranks.world_size)

    def _mismatched(self, step: int) -> list[Batch]:
        ranks = self._trainee.slot_ranks
        return self._rows.mismatched(step, ranks.rank, ranks.world_size) if self._trainee.needs_point else []

    def _start_rows(self) -> list[Batch]:
        """Before the very first step those of the first ones, where the adapter starts from its layers' inputs."""
        if self.spec.init_lora_weights != "eva" or self.progress.step:
            return []
        return [batch for step in range(min(NUM_STEPS, self.num_steps)) for batch in self._batches(step)]

    def took(self, share: Share, result: StepResult | NonFiniteLossError, seconds: float) -> None:
        """Note what a step did.

        Args:
            share: What went into it.
            result: What came out, the same on every rank that shares the slot.
            seconds: Wall-clock time of the turn, in which other slots may have stepped too.

        Raises:
            NonFiniteLossError: The step was none.
        """
        if isinstance(result, NonFiniteLossError):
            raise self._falling_back(result)
        progress = self.progress
        self._sound_step = progress.step
        progress.step += 1
        progress.num_tokens += result.num_tokens
        progress.train_loss = result.loss
        progress.train_s += seconds
        if progress.step % self.spec.logging_steps == 0 or self._is_through:
            self.emit("step", result.told(share.learning_rate, seconds))

    @property
    def is_to_report(self) -> bool:
        """Whether the step that it stands at is one of those at which the run is judged."""
        step, every = self.progress.step, self.spec.eval_steps
        return step == 0 or self._is_through or (every is not None and step % every == 0)

    @property
    def is_to_validate(self) -> bool:
        """Whether the step that it stands at asks for an evaluation."""
        return self.validation is not None and self.is_to_report

    @property
    def metrics(self) -> dict[str, float | int | None]:
        """What the run is judged by."""
        progress = self.progress
        return {
            "eval_loss": progress.eval_loss,
            **progress.eval_metrics,
            "train_loss": progress.train_loss,
            "num_tokens": progress.num_tokens,
        }

    def validated(self, found: Measured) -> None:
        """Note what the validation rows came to.

        Raises:
            NonFiniteLossError: Their loss is NaN or Inf.
        """
        progress, loss = self.progress, found.loss
        if not math.isfinite(loss):
            raise self._falling_back(
                NonFiniteLossError(
                    f"validation loss is {loss} after step {progress.step}; lower learning_rate, or set max_grad_norm"
                )
            )
        self._sound_step = progress.step
        if progress.step == 0:
            progress.eval_loss_before = loss
        progress.eval_loss, progress.eval_step = loss, progress.step
        progress.eval_metrics = {f"eval_{name}": value for name, value in found.metrics.items()}
        if progress.best_eval_loss is None or loss < progress.best_eval_loss:
            progress.best_eval_loss, progress.num_worse = loss, 0
        else:
            progress.num_worse += 1
        self.emit("eval", {"eval_loss": loss, **progress.eval_metrics})

    @property
    def is_to_save(self) -> bool:
        """Whether the step that it stands at asks for a checkpoint."""
        return bool(self.spec.save_steps) and self.progress.step % (self.spec.save_steps or 1) == 0

    def save(self) -> None:
        """Begin to keep a checkpoint of this moment, unless there is one; a collective call.

        Raises:
            StoreError: The checkpoint before this one could not be kept; on every rank.
        """
        if self._saved_step != self.progress.step:
            self._writing.begin(self._take)
            self._saved_step = self.progress.step

    def _take(self) -> Checkpoint:
        """This moment; a collective call."""
        here = cursors(self.spec, self._rows, self.progress.step, self.num_steps)
        taken = take(self._trainee, self.slot, self.progress, self._digests)
        return replace(taken, state={**taken.state, CURSORS: here, **self._tail.state})

    def settle(self) -> str:
        """Wait until what was to be kept is; a collective call.

        Returns:
            URI of the last checkpoint; empty where there is none.

        Raises:
            StoreError: It could not be kept; on every rank.
        """
        try:
            self._writing.settle()
        except StoreError:
            self._saved_step = -1  # this moment may be kept by another try
            raise
        return self._writing.uri

    def leave(self) -> None:
        """Let nothing of this run go on in this process, on this rank; whether its last checkpoint is kept is left."""
        self._writing.end()

    def emit(self, kind: EventKind, values: Mapping[str, Any]) -> None:
        """Tell of this run; one rank speaks for all.

        Args:
            kind: Of event.
            values: What the kind tells.
        """
        if self._trainee.slot_ranks.rank == 0:
            self._hooks.emit(self._tail.noted(Event(kind, self.progress.step, values)))

    def _write(self, checkpoint: Checkpoint) -> str:
        """Keep a checkpoint and tell of it; in a thread of its own, on the rank that speaks."""
        uri = self._hooks.save(checkpoint)
        self._hooks.emit(Event("checkpoint", checkpoint.step, {"uri": uri}))
        return uri

    def _falling_back(self, error: NonFiniteLossError) -> NonFiniteLossError:
        """Give up weights that are in doubt, and name the checkpoint that the run goes on from; a collective call.

        A loss that comes out finite speaks for the weights it was computed with; one that does not speaks against them.
        """
        with suppress(StoreError):  # the checkpoints before it are as good
            self._writing.settle()
        try:
            good = self._trainee.slot_ranks.store(lambda: self._hooks.fall_back(self._sound_step))
        except StoreError as failure:
            good = f"not known ({failure})"
        doubted = f"none; {self._writing.uri} gave this loss" if self._writing.uri else ""
        last = good or doubted or "none was saved yet (set save_steps)"
        return NonFiniteLossError(f"{error}.{self._places(error)} Last good checkpoint: {last}")

    def _places(self, error: NonFiniteLossError) -> str:
        """Files and lines of the first few rows that an error names."""
        places = [self._rows.place(row_id) for row_id in error.row_ids[:NUM_PLACES]]
        more = f"; and {num_more} more" if (num_more := len(error.row_ids) - len(places)) else ""
        return f" The rows are: {'; '.join(places)}{more}." if places else ""
