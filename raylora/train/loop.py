"""The loop: evaluate, step, evaluate, save, until the steps are done or somebody asks to stop.

Trainee and batches enter; progress leaves, and events on the way. Called by the runtime's worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from raylora.data.batches import Batches
from raylora.errors import NonFiniteLossError
from raylora.store.checkpoint import Checkpoint
from raylora.train.build import Trainee
from raylora.train.evaluate import evaluate
from raylora.train.events import Event, EventKind, Hooks
from raylora.train.sample import answer
from raylora.train.schedule import learning_rate
from raylora.train.snapshot import Progress, restore, take
from raylora.train.step import StepResult, train_step

NUM_PLACES = 3
"""Rows whose file and line an error names."""

Ending = Literal["finished", "early_stopped", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Args:
        ending: All steps done, stopped by validation, or stopped on request with a checkpoint.
        progress: Where it stands.
        checkpoint_uri: The last checkpoint.
        samples_after: Answers of the trained model.
    """

    ending: Ending
    progress: Progress
    checkpoint_uri: str
    samples_after: list[str]


class Training:
    """One run on one rank.

    Args:
        trainee: What is trained.
        tokenizer: For the sample prompts.
        rows: Training batches.
        validation: Validation batches, if any.
        hooks: Whom to tell and to ask.
        digests: Of base and data.
    """

    def __init__(
        self,
        trainee: Trainee,
        tokenizer: PreTrainedTokenizerBase,
        rows: Batches,
        validation: Batches | None,
        hooks: Hooks,
        digests: dict[str, str],
    ) -> None:
        self._trainee, self._tokenizer = trainee, tokenizer
        self._rows, self._validation = rows, validation
        self._hooks, self._digests = hooks, digests
        self._spec = trainee.spec
        self._progress = Progress()
        self._checkpoint_uri, self._saved_step = "", -1
        self._good_uri = ""  # of the newest checkpoint whose weights gave a finite loss
        self.num_steps = self._spec.max_steps or rows.num_steps(self._spec.num_epochs)

    def run(self, checkpoint: Checkpoint | None = None) -> Outcome:
        """Train from the start, or from a checkpoint.

        Raises:
            NonFiniteLossError: A loss was NaN or Inf.
        """
        if checkpoint is not None:
            self._progress = restore(self._trainee, checkpoint, self._digests)
            self._checkpoint_uri, self._saved_step = checkpoint.uri, checkpoint.step
        self._emit("start", {"num_steps": self.num_steps})
        if checkpoint is None:
            self._begin()
        ending: Ending = "finished"
        while self._progress.step < self.num_steps:
            if self._stop_requested():
                ending = "stopped"
                break
            self._step()
            if self._validate_now() and self._is_hopeless():
                ending = "early_stopped"
                break
            if self._spec.save_steps and self._progress.step % self._spec.save_steps == 0:
                self._save()
        return self._end(ending)

    def _begin(self) -> None:
        progress = self._progress
        if self._validation is not None:
            progress.eval_loss_before = self._evaluate(self._validation)
        progress.samples_before = self._answers()

    def _end(self, ending: Ending) -> Outcome:
        samples: list[str] = []
        if ending != "stopped":
            samples = self._answers()
            self._emit("samples", {"before": self._progress.samples_before, "after": samples})
        self._save()
        return Outcome(ending, self._progress, self._checkpoint_uri, samples)

    def _step(self) -> None:
        progress, ranks = self._progress, self._trainee.ranks
        rate = learning_rate(self._spec, progress.step, self.num_steps)
        start = perf_counter()
        with self._naming_last_good_checkpoint():
            batches = self._rows.step(progress.step, ranks.rank, ranks.world_size)
            result = train_step(self._trainee, batches, progress.step, rate)
        seconds = perf_counter() - start
        progress.step += 1
        progress.num_tokens += result.num_tokens
        progress.train_loss = result.loss
        progress.train_s += seconds
        if progress.step % self._spec.logging_steps == 0 or progress.step == self.num_steps:
            self._emit("step", _metrics(result, rate, seconds))

    def _validate_now(self) -> bool:
        """Evaluate if this step asks for it; whether it did."""
        progress, every = self._progress, self._spec.eval_steps
        is_due = progress.step == self.num_steps or (every is not None and progress.step % every == 0)
        if self._validation is None or not is_due:
            return False
        self._evaluate(self._validation)
        return True

    def _evaluate(self, validation: Batches) -> float:
        progress = self._progress
        with self._naming_last_good_checkpoint():
            loss = evaluate(self._trainee, validation)
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"validation loss is {loss} after step {progress.step}; lower learning_rate, or set max_grad_norm"
                )
        progress.eval_loss = loss
        if progress.best_eval_loss is None or loss < progress.best_eval_loss:
            progress.best_eval_loss, progress.num_worse = loss, 0
        else:
            progress.num_worse += 1
        self._emit("eval", {"eval_loss": loss})
        return loss

    @contextmanager
    def _naming_last_good_checkpoint(self) -> Iterator[None]:
        """A loss that comes out finite speaks for the newest checkpoint; one that does not, for the one before."""
        try:
            yield
        except NonFiniteLossError as error:
            last = self._good_uri or "none was saved yet (set save_steps)"
            raise NonFiniteLossError(f"{error}.{self._places(error)} Last good checkpoint: {last}") from error
        self._good_uri = self._checkpoint_uri

    def _places(self, error: NonFiniteLossError) -> str:
        """Files and lines of the first few rows that an error names."""
        places = [self._rows.place(row_id) for row_id in error.row_ids[:NUM_PLACES]]
        num_more = len(error.row_ids) - len(places)
        more = f"; and {num_more} more" if num_more else ""
        return f" The rows are: {'; '.join(places)}{more}." if places else ""

    def _is_hopeless(self) -> bool:
        patience = self._spec.early_stopping_patience
        return patience is not None and self._progress.num_worse >= patience

    def _answers(self) -> list[str]:
        spec = self._spec
        return answer(self._trainee, self._tokenizer, spec.sample_prompts, spec.sample_max_new_tokens)

    def _save(self) -> None:
        if self._saved_step == self._progress.step:
            return
        checkpoint = take(self._trainee, self._progress, self._digests)
        uris = self._trainee.ranks.gather(self._hooks.save(checkpoint) if self._trainee.ranks.rank == 0 else None)
        self._checkpoint_uri, self._saved_step = uris[0], self._progress.step
        if self._spec.storage.keep_checkpoints == 1:
            self._good_uri = ""  # deleted to make room
        self._emit("checkpoint", {"uri": self._checkpoint_uri})

    def _stop_requested(self) -> bool:
        """Whether rank 0 was asked to stop; all ranks agree."""
        ranks = self._trainee.ranks
        asked = ranks.rank == 0 and self._hooks.stop_requested()
        return bool(ranks.sum(torch.tensor(int(asked), device=self._trainee.device)))

    def _emit(self, kind: EventKind, values: Mapping[str, Any]) -> None:
        if self._trainee.ranks.rank == 0:
            self._hooks.emit(Event(kind, self._progress.step, values))


def _metrics(result: StepResult, rate: float, seconds: float) -> dict[str, float]:
    return {
        "train_loss": result.loss,
        "learning_rate": rate,
        "grad_norm": result.grad_norm,
        "num_tokens": float(result.num_tokens),
        "tokens_per_s": result.num_tokens / seconds,
    }
