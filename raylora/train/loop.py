"""The loop of one run: evaluate, step, evaluate, save, until the steps are done or somebody asks to stop.

Trainee and batches enter; progress leaves, and events on the way. Called by the runtime's worker.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from raylora.data.batches import Batches
from raylora.errors import StoreError
from raylora.log import get_logger
from raylora.store.checkpoint import Checkpoint
from raylora.train.events import Hooks, Wish
from raylora.train.member import Member
from raylora.train.outcome import Ending, Outcome
from raylora.train.sample import answer
from raylora.train.trainee import Trainee
from raylora.train.turn import Failures, step_all, validate_all

log = get_logger(__name__)

WISHES: tuple[Wish | None, ...] = (None, "save", "stop")


class Training:
    """One run on one rank.

    Args:
        trainee: What is trained, in slot 0.
        tokenizer: For the sample prompts; none where rows are no texts.
        rows: Training batches.
        validation: Validation batches, if any.
        hooks: Whom to tell and to ask.
        digests: Of base, data and configuration.
    """

    def __init__(
        self,
        trainee: Trainee,
        tokenizer: PreTrainedTokenizerBase | None,
        rows: Batches,
        validation: Batches | None,
        hooks: Hooks,
        digests: dict[str, str],
    ) -> None:
        self._trainee, self._tokenizer, self._hooks = trainee, tokenizer, hooks
        self._member = Member(trainee, 0, trainee.spec, rows, validation, hooks, digests)

    def run(self, checkpoint: Checkpoint | None = None) -> Outcome:
        """Train from the start, or from a checkpoint.

        Raises:
            NonFiniteLossError: A loss was NaN or Inf.
            StoreError: A checkpoint could not be kept.
        """
        try:
            return self._run(checkpoint)
        finally:
            self._member.leave()  # what is on its way to the store is what a restart goes on from

    def _run(self, checkpoint: Checkpoint | None) -> Outcome:
        member = self._member
        if checkpoint is not None:
            member.restore(checkpoint)
        member.emit("start", {"num_steps": member.num_steps})
        if checkpoint is None:
            _check(validate_all(self._trainee, [member]))
            member.progress.samples_before = self._answers()
        while (ending := member.ending or self._obey()) is None:
            _check(step_all(self._trainee, [member]))
            _check(validate_all(self._trainee, [member]))
            if member.is_to_save:
                member.save()
        return self._end(ending)

    def _end(self, ending: Ending) -> Outcome:
        member, samples = self._member, list[str]()
        if ending != "stopped":
            samples = self._answers()
            member.emit("samples", {"before": member.progress.samples_before, "after": samples})
        else:
            self._note_failed_save()
        member.save()
        return Outcome(ending, member.progress, member.settle(), samples)

    def _note_failed_save(self) -> None:
        """Whoever asks to stop wants this moment kept, whatever became of an earlier one."""
        try:
            self._member.settle()
        except StoreError as error:
            log.warning("an earlier checkpoint was not kept: %s", error)

    def _answers(self) -> list[str]:
        spec = self._trainee.spec
        return answer(self._trainee, 0, self._tokenizer, spec.sample_prompts, spec.sample_max_new_tokens)

    def _obey(self) -> Ending | None:
        """Save where that is wished; returns how training ends, where it is wished to."""
        wish = self._wish()
        if wish == "save":
            self._member.save()
            self._member.emit("saved", {"uri": self._member.settle()})
        return "stopped" if wish == "stop" else None

    def _wish(self) -> Wish | None:
        """What rank 0 was asked for; all ranks agree."""
        ranks = self._trainee.ranks
        asked = WISHES.index(self._hooks.wish()) if ranks.rank == 0 else 0
        return WISHES[int(ranks.sum(torch.tensor(asked, device=self._trainee.device)))]


def _check(failures: Failures) -> None:
    """A run alone fails with its slot."""
    for error in failures.values():
        raise error
