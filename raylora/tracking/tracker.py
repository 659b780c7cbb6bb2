"""The tracker of one training: what it logs is on disk at once and in MLflow soon.

In come metrics, inputs and files, out comes one MLflow run, however often the training is resumed. MLflow may be down
from the first step on: nothing waits for it and nothing is lost. Called by the runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from raylora.spec.run import RunSpec
from raylora.store.home import resume_command
from raylora.tracking.address import how_to_open, tracking_uri
from raylora.tracking.lanes import Lanes
from raylora.tracking.new_run import of_training
from raylora.tracking.run_log import RunLog
from raylora.tracking.start import OpenRun, open_run, reopen_run
from raylora.tracking.system import SystemSampler

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
FINISH_TIMEOUT_S = 60.0


class Tracker(RunLog):
    """Logs one training to one MLflow run; made by `Tracker.start`.

    No method but `start` and `finish` waits for MLflow, and none of them raises for its failures.
    """

    def __init__(self, lanes: Lanes, run: OpenRun, system_metrics: bool) -> None:
        super().__init__(lanes)
        self.mlflow_run_id = run.run_id
        self.how_to_open = how_to_open(lanes.uri, run.experiment_id, run.run_id)
        self.log_status("RUNNING")
        self._sampler = SystemSampler(self.log_metrics, run.started_ms) if system_metrics else None

    @classmethod
    def start(cls, spec: RunSpec, run_id: str, spool_dir: Path, mlflow_run_id: str | None = None) -> Tracker:
        """Create the MLflow run of a training, or go on with it.

        Args:
            spec: What is trained.
            run_id: raylora's own name of the run.
            spool_dir: Folder of this run on this machine for what MLflow does not have yet; what an earlier process
                left there is sent first.
            mlflow_run_id: The run to go on with; created where absent.

        Raises:
            TrackingError: MLflow does not answer or refuses; only before there is a run.
            InputError: The tracking URI, experiment and artifact URI do not fit together.
        """
        uri = tracking_uri(spec.tracking)
        run = open_run(uri, of_training(spec, run_id)) if mlflow_run_id is None else reopen_run(uri, mlflow_run_id)
        lanes = Lanes(uri, run.run_id, spool_dir, resume_command(run_id, spec.storage.uri))
        return cls(lanes, run, spec.tracking.system_metrics)

    def finish(
        self, status: Literal["finished", "failed", "interrupted"], timeout_s: float | None = None
    ) -> dict[str, int]:
        """Deliver what is left and close the MLflow run.

        Args:
            status: How the training ended.
            timeout_s: Longest wait for MLflow in seconds; `FINISH_TIMEOUT_S` where absent.

        Returns:
            Number of entries that MLflow did not take, by kind; empty where it has everything. They stay on disk and
            are sent when the run is resumed, but for those that a full disk did not take: an error says how many.
        """
        self._stop_sampling()
        self.log_status(STATUS[status])
        return self._lanes.close(FINISH_TIMEOUT_S if timeout_s is None else timeout_s)

    def leave(self) -> None:
        """Log no more, and do not say that the run has ended: another process goes on with it."""
        self._stop_sampling()
        self._lanes.close(0)

    def _stop_sampling(self) -> None:
        if self._sampler:
            self._sampler.stop()
