"""Trials that are drawn anew in a sweep that goes on, and what a killed driver had told MLflow of their numbers.

Searchers go on from a state some seconds old: the driver told MLflow of trials that they do not know, and even its
record may lack the newest. Such a number is drawn again, and the configuration may be another: then what MLflow has is
of a trial that is no more. In comes what was drawn, out comes what MLflow has of it. Called by the sweep's books.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylora.log import get_logger
from raylora.store.sweeps import SweepRecord, TrialRecord
from raylora.tracking.children import child_of, run_of
from raylora.tracking.sweep_tracker import SweepTracker

log = get_logger(__name__)


class Strays:
    """The trials of one sweep that MLflow was told of and that its record lacks; MLflow is asked once.

    Args:
        tracker: Of the sweep.
        record: The sweep as an earlier process left it, or new.
    """

    def __init__(self, tracker: SweepTracker, record: SweepRecord) -> None:
        self._tracker, self._may_mutate = tracker, record.spec.get("scheduler") == "pbt"
        known = {str(trial.child) for trial in record.trials}
        self._children = tracker.strays(known) if record.mlflow_run_id is not None else set[str]()

    def is_another(self, trial: TrialRecord, config: Mapping[str, Any]) -> bool:
        """Return whether a trial of the record was drawn anew, as another.

        Args:
            trial: As an earlier process left it.
            config: With which its number begins now.
        """
        if self._may_mutate or trial.tracked_as is None:  # PBT changes a trial, and goes with searchers that draw alike
            return False
        return trial.tracked_as != child_of(run_of(trial.tracked_as), config)

    def lose(self, trial: TrialRecord) -> None:
        """Take a trial out of the record: it is no more."""
        self._children.add(str(trial.child))

    def claim(self, child: str, name: str) -> bool:
        """Return whether an earlier process told MLflow of a trial as it is drawn now; of other draws the runs end.

        Args:
            child: Name by which the trial's MLflow run is found.
            name: Of the trial, such as ``t003``.
        """
        same_number = {each for each in self._children if run_of(each) == run_of(child)}
        self._children -= same_number
        for other in same_number - {child}:
            log.info("%s was drawn anew with another configuration: what MLflow has of the earlier one ends", name)
            earlier = self._tracker.trial(other, name)
            earlier.log_tags({"raylora.drawn_anew": "true"})
            earlier.log_status("KILLED")
        return child in same_number
