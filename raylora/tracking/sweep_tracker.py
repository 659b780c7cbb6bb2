"""The tracker of a sweep: a parent run for it and a child for each trial, by one spool and one delivery.

In comes what happens to trials, out come nested MLflow runs, one for each trial however often the sweep is resumed.
A trial's run is made when the first of its entries is delivered, so no trial waits for MLflow. Called by the sweep.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mlflow import MlflowClient

from raylora.log import get_logger
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.home import resume_command
from raylora.tracking.address import tracking_uri
from raylora.tracking.children import Children
from raylora.tracking.lanes import Lanes
from raylora.tracking.new_run import of_sweep
from raylora.tracking.run_log import Child, RunLog
from raylora.tracking.start import open_run, reopen_run
from raylora.tracking.tracker import Tracker

GATHER_S = 5.0
"""Trials side by side make many entries, each trial's a request of its own: they wait longer for company."""

_log = get_logger(__name__)


class SweepTracker(Tracker):
    """Logs one sweep to one MLflow run, and each of its trials to one below it; made by `SweepTracker.begin`."""

    @classmethod
    def begin(
        cls,
        spec: SweepSpec,
        sweep_id: str,
        spool_dir: Path,
        mlflow_run_id: str | None = None,
        trials: Mapping[str, str] | None = None,
    ) -> SweepTracker:
        """Create the MLflow run of a sweep, or go on with it.

        Args:
            spec: What is searched; its run says where MLflow is.
            sweep_id: raylora's own name of the sweep.
            spool_dir: Folder of this sweep on this machine for what MLflow does not have yet; what an earlier process
                left there is sent first.
            mlflow_run_id: The run to go on with; created where absent.
            trials: MLflow's ids of the trials that it has, by the name that they are found by.

        Raises:
            TrackingError: MLflow does not answer or refuses; only before there is a run.
            InputError: The tracking URI, experiment and artifact URI do not fit together.
        """
        tracking, resume = spec.run.tracking, resume_command(sweep_id, spec.run.storage.uri)
        uri = tracking_uri(tracking)
        run = open_run(uri, of_sweep(spec, sweep_id)) if mlflow_run_id is None else reopen_run(uri, mlflow_run_id)
        children = Children(run.run_id, trials or {})
        lanes = Lanes(uri, run.run_id, spool_dir, resume, children, GATHER_S)
        return cls(lanes, run, tracking.system_metrics)

    @property
    def trial_ids(self) -> Mapping[str, str]:
        """MLflow's ids of the trials that it has so far, by the name that they are found by; does not wait."""
        return self._lanes.children.ids if self._lanes.children else {}

    def trial(self, child: str, name: str) -> RunLog:
        """Return what logs to one trial's MLflow run, which need not be there yet.

        Args:
            child: Name that it is found by, of `child_of`.
            name: Shown in MLflow.
        """
        return RunLog(self._lanes, Child(child, name))

    def strays(self, known: Collection[str]) -> set[str]:
        """Return the trials that MLflow was told of, or is about to be, and that are not known; asks once.

        None where MLflow does not answer: what it has of them is then told again.

        Args:
            known: Names that trials are found by.
        """
        lanes, children = self._lanes, self._lanes.children
        assert children is not None  # a sweep's lanes have them
        pending = lanes.pending_values()  # asked first: what is delivered meanwhile is found
        found = lanes.ask(
            lambda: children.look(MlflowClient(tracking_uri=lanes.uri)),
            None,
            "what MLflow has of trials without a record is not at hand, so their steps may be there twice",
        )
        if found is None:
            return set()
        return {*found, *(entry["child"] for entry in pending if "child" in entry)} - set(known)
