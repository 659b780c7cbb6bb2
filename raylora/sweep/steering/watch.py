"""What happens to a search's trials, told to whoever listens; and the trials' numbers. Called by Tune's controller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ray import cloudpickle
from ray.exceptions import RayError
from ray.tune import Callback
from ray.tune.experiment import Trial
from typing_extensions import override

from raylora.errors import UnusableStoreError
from raylora.runtime.cluster.failures import cause, gist
from raylora.sweep.steering.signed_files import unkept

TrialEventKind = Literal["start", "report", "pause", "end"]


@dataclass(frozen=True)
class TrialEvent:
    """Something that happened to a trial.

    Args:
        kind: ``start`` (again after a pause), ``report``, ``pause`` or ``end``.
        number: Of the trial.
        sampled: What was drawn for it; PBT changes it.
        result: Its last report: means, ``steps``, ``tokens`` and ``repeats``.
        stopped: Whether the scheduler had it stopped at this report, or it reached its end.
        error: Why it failed, at its end.
    """

    kind: TrialEventKind
    number: int
    sampled: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)
    stopped: bool = False
    error: str | None = None


Listener = Callable[[TrialEvent], None]


class Watch(Callback):
    """Numbers trials in the order in which the searcher made them, and passes on what happens to them.

    Args:
        listen: Told in order.
    """

    def __init__(self, listen: Listener) -> None:
        self._listen = listen
        self._numbers: dict[str, int] = {}
        self._all_trials: Callable[[], Sequence[Trial]] = list
        self._paused: set[str] = set()
        self._unkept: UnusableStoreError | None = None
        self.num_ended = 0

    def serve(self, all_trials: Callable[[], Sequence[Trial]]) -> None:
        """Note where the trials are; Tune appends to them what the searcher makes."""
        self._all_trials = all_trials

    def number_of(self, trial_id: str) -> int:
        """Number of a trial, by Tune's name of it."""
        if trial_id not in self._numbers:
            for trial in self._all_trials():
                self._numbers.setdefault(trial.trial_id, len(self._numbers))
        return self._numbers[trial_id]

    def check(self) -> None:
        """Find out that Tune could write and read what it keeps of trials: those that it could not would be failed.

        Raises:
            UnusableStoreError: It could not.
        """
        if self._unkept is not None:
            raise self._unkept

    def tell_pauses(self) -> None:
        """Tell which trials have given their slots up and are to go on later: Tune calls nobody for that."""
        paused = [trial for trial in self._all_trials() if trial.status == Trial.PAUSED]
        for trial in paused:
            if trial.trial_id not in self._paused:
                self._listen(TrialEvent("pause", self.number_of(trial.trial_id), trial.config))
        self._paused = {trial.trial_id for trial in paused}

    @override
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._listen(TrialEvent("start", self.number_of(trial.trial_id), trial.config))

    @override
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        number = self.number_of(trial.trial_id)
        self._listen(TrialEvent("report", number, trial.config, result, bool(result.get("done"))))

    @override
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial)

    @override
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial)

    @override
    def get_state(self) -> dict[str, Any]:
        return {"numbers": self._numbers}

    @override
    def set_state(self, state: dict[str, Any]) -> None:
        self._numbers = dict(state["numbers"])

    def _end(self, trial: Trial) -> None:
        self.num_ended += 1
        number, result, failure = self.number_of(trial.trial_id), trial.last_result or {}, failure_of(trial)
        # A lease writes and reads what it saves; what is not there any more is this trial's loss alone.
        if isinstance(failure, OSError) and not isinstance(failure, (FileNotFoundError, RayError)):
            failure = unkept(gist(failure))
        if isinstance(failure, UnusableStoreError):
            self._unkept = failure
            return
        self._listen(TrialEvent("end", number, trial.config, result, error=None if failure is None else gist(failure)))


def failure_of(trial: Trial) -> BaseException | None:
    """What a trial failed of; None where it did not."""
    file = trial.pickled_error_file  # in this driver's own folder, from where Tune copies it to the store later
    is_here = file is not None and Path(file).exists()
    error = cloudpickle.loads(Path(file).read_bytes()) if is_here else trial.get_pickled_error()
    return None if error is None else cause(error)
