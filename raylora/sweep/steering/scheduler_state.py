"""What Tune leaves out when it keeps a search: its scheduler, the trials that this one has paused, and chance.

In comes the controller before Tune keeps it, with which all of this goes into the same file; out of what was kept comes
a controller whose scheduler decides as if nothing had happened. Called by `drive.py`.
"""

from __future__ import annotations

import base64
import io
import pickle
import random
import zlib
from typing import Any

import numpy as np
from ray import cloudpickle
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

# Ray Train's own class, which only the runtime's room may import; Tune holds it here without offering it.
from ray.tune.experiment.trial import _FutureTrainingResult  # type: ignore[attr-defined]
from ray.tune.schedulers import TrialScheduler

KEPT = "_raylora_kept"
"""Attribute of the controller: Tune keeps all that it does not know to be somewhere else."""

GONE = ""
"""Instead of a save that was under way: whoever waited for it has asked again, or asks again."""

Statuses = dict[str, str]
"""Status of each trial, by Tune's name of it, in the order in which they were made."""


def statuses(controller: TuneController) -> Statuses:
    """How trials stand between two steps of the controller; one that is about to be paused is so already."""
    deciding = controller._cached_trial_decisions
    return {
        trial.trial_id: Trial.PAUSED if deciding.get(trial.trial_id) == TrialScheduler.PAUSE else trial.status
        for trial in controller.get_trials()
    }


def note(controller: TuneController, stood: Statuses) -> None:
    """Lay it beside what Tune keeps next.

    Args:
        controller: Between two of its steps.
        stood: What paused trials are to be when the search goes on: those that waited for the scheduler wait again.
    """
    for trial in controller.get_trials():
        if trial.is_finished():  # of a trial that is stopped while it is paused, Tune would keep that it is paused
            controller._mark_trial_to_checkpoint(trial)
    file = io.BytesIO()
    state = {
        "scheduler": vars(controller.scheduler_alg),
        "stood": stood,
        "chance": (random.getstate(), np.random.get_state()),
    }
    _Pickler(file).dump(state)
    vars(controller)[KEPT] = base64.b85encode(zlib.compress(file.getvalue(), 1)).decode()


def recall(controller: TuneController) -> bool:
    """Give a controller that was resumed what was noted; returns whether there was anything.

    Args:
        controller: Its scheduler is new, of the same kind, and is changed.
    """
    kept = vars(controller).get(KEPT)
    if kept is None:
        return False
    trials = {trial.trial_id: trial for trial in controller.get_trials()}
    state = _Unpickler(zlib.decompress(base64.b85decode(kept)), trials).load()
    vars(controller.scheduler_alg).update(state["scheduler"])
    stood: Statuses = state["stood"]
    places = list(stood)
    controller._trials[:] = [trials[trial_id] for trial_id in places]  # Tune has them in any order
    for trial in controller.get_trials():
        # Tune lets go on whatever has not ended.
        if stood[trial.trial_id] == Trial.PAUSED and trial.status == Trial.PENDING:
            controller._set_trial_status(trial, Trial.PAUSED)
    # Who had a slot has one again, before those that had none yet.
    controller._pending_trials_list.sort(
        key=lambda trial: (stood[trial.trial_id] != Trial.RUNNING, places.index(trial.trial_id))
    )
    random.setstate(state["chance"][0])
    np.random.set_state(state["chance"][1])
    return True


class _Pickler(cloudpickle.CloudPickler):
    """Names trials instead of copying them."""

    def persistent_id(self, obj: Any) -> str | None:
        if isinstance(obj, _FutureTrainingResult):
            return GONE
        return obj.trial_id if isinstance(obj, Trial) else None


class _Unpickler(pickle.Unpickler):
    """Takes named trials from the controller that goes on.

    Args:
        data: What `_Pickler` wrote.
        trials: By name.
    """

    def __init__(self, data: bytes, trials: dict[str, Trial]) -> None:
        super().__init__(io.BytesIO(data))
        self._trials = trials

    def persistent_load(self, pid: Any) -> Trial | None:
        return None if pid == GONE else self._trials[pid]
