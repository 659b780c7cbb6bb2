"""Population-based training in step, of which trials may fail. Called by `tune_space.py`.

In comes what Ray Tune's own scheduler takes; out goes one that decides the same, and waits for no trial that is over.
Tune's, synchronous, counts a trial that failed among those that live, and holds all others back until it reports.
"""

from __future__ import annotations

import math
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining
from typing_extensions import override


class Population(PopulationBasedTraining):
    """Ray Tune's, of which trials that are over are no part: Jaderberg et al., 2017, https://arxiv.org/abs/1711.09846."""

    @override
    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        live = tune_controller.get_live_trials()
        live.difference_update([each for each in live if each.is_finished()])  # a search that goes on has them again
        return super().on_trial_result(tune_controller, trial, result)

    @override
    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        self._leave(tune_controller, trial)

    @override
    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        self._leave(tune_controller, trial)

    def _leave(self, tune_controller: TuneController, trial: Trial) -> None:
        """Go on without a trial, and if all others waited for it, at once: one of them tells again what it has told."""
        tune_controller.get_live_trials().discard(trial)
        self._trial_state[trial].last_score = math.nan  # nobody is compared with it, or takes its state
        for each in list(tune_controller.get_live_trials()):
            state = self._trial_state[each]
            if state.last_train_time >= self._next_perturbation_sync and state.last_result is not None:
                self.on_trial_result(tune_controller, each, state.last_result)
                break
