"""A sweep's specification in Ray Tune's terms: space, searcher and scheduler. Called by the launcher."""

from __future__ import annotations

import math

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.sweeps import TUNE_FOLDER
from raylora.sweep.steering.drive import Search
from raylora.sweep.steering.tune_space import tune_scheduler, tune_searcher, tune_space


def search_of(spec: SweepSpec, folder: str, num_at_once: int) -> Search:
    """Return what Tune is to search.

    Args:
        spec: The sweep.
        folder: URI of the sweep's own store, in which Tune keeps what it knows.
        num_at_once: Runs that may train at once; the repeats of a trial are so many runs.
    """
    return Search(
        name=TUNE_FOLDER,
        folder=folder,
        space=tune_space(spec.space),
        num_trials=spec.num_configurations,
        metric=spec.metric,
        mode=spec.mode,
        searcher=tune_searcher(spec, num_at_once // spec.repeats),
        scheduler=tune_scheduler(spec),
        num_at_once=num_at_once // spec.repeats,
        save_reports=math.ceil((spec.run.save_steps or 0) / spec.report_steps),
    )
