"""Population-based training in step, of which trials may fail. Called by `tune_space.py`.

In comes what Ray Tune's own scheduler takes; out goes one that decides the same, and waits for no trial that is over.
Tune's, synchronous, counts a trial that failed among those that live, and holds all others back until it reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining
from typing_extensions import override


class Population(PopulationBasedTraining):
    """Ray Tune's, of which trials that are over are no part: Jaderberg et al., 2017, https://arxiv.org/abs/1711.09846."""

    @override
    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        _living(tune_controller)
        return super().on_trial_result(tune_controller, trial, result)

    @override
    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        self._leave(tune_controller, trial)

    @override
    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        self._leave(tune_controller, trial)

    def _leave(self, tune_controller: TuneController, trial: Trial) -> None:
        """Go on without a trial, and if all others waited for it, at once: one of them tells again what it has told."""
        live = _living(tune_controller)
        live.discard(trial)
        self._trial_state[trial].last_score = math.nan  # nobody is compared with it, or takes its state
        due = self._next_perturbation_sync
        if live and all(self._trial_state[each].last_train_time >= due for each in live):
            self._perturb(tune_controller, sorted(live, key=self._reported, reverse=True))

    def _perturb(self, tune_controller: TuneController, waiting: Sequence[Trial]) -> None:
        """Let the first of them that may have all of them compared; nobody else would ask again."""
        due = self._next_perturbation_sync
        for trial in waiting:
            state = self._trial_state[trial]
            # One that has another's state since it reported does not stand where its report says.
            if state.last_result is not None and self._reported(trial)[0] == state.last_train_time:
                self.on_trial_result(tune_controller, trial, state.last_result)
            if self._next_perturbation_sync != due:
                return
        latest = max(self._trial_state[trial].last_train_time for trial in waiting)
        self._next_perturbation_sync = latest + self._perturbation_interval

    def _reported(self, trial: Trial) -> tuple[float, str]:
        """How far a trial had come when it reported last, and its name, so that no order is by chance."""
        result: dict[str, Any] = self._trial_state[trial].last_result or {}
        return result.get(self._time_attr, 0), trial.trial_id


def _living(tune_controller: TuneController) -> set[Trial]:
    """Tune's own set of trials that live, without those that are over: a search that goes on has these again."""
    live: set[Trial] = tune_controller.get_live_trials()
    live.difference_update([trial for trial in live if trial.is_finished()])
    return live
