"""The tracker of one training: what it logs is on disk at once and in MLflow soon.

In come metrics, inputs and files, out comes one MLflow run, however often the training is resumed. MLflow may be down
from the first step on: nothing waits for it and nothing is lost. Called by the runtime.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from raylora.log import get_logger
from raylora.spec.run import RunSpec
from raylora.tracking.address import how_to_open, redacted, tracking_uri
from raylora.tracking.delivery import (
    Delivery,
    files_entry,
    inputs_entry,
    metrics_entry,
    status_entry,
    tags_entry,
)
from raylora.tracking.inputs import DatasetUse
from raylora.tracking.outbox import Outbox
from raylora.tracking.start import OpenRun, open_run, points, reopen_run
from raylora.tracking.system import SystemSampler

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
FINISH_TIMEOUT_S = 60.0

_log = get_logger(__name__)


class Tracker:
    """Logs one training to one MLflow run; made by `Tracker.start`.

    No method but `start` and `finish` waits for MLflow, and none of them raises for its failures.
    """

    def __init__(self, uri: str, run: OpenRun, run_id: str, spool_dir: Path, system_metrics: bool) -> None:
        self.mlflow_run_id = run.run_id
        self.how_to_open = how_to_open(uri, run.experiment_id, run.run_id)
        self._uri, self._run_id, self._spool_dir = uri, run_id, spool_dir
        # Files have a lane of their own: an artifact store that fails must not hold up the metrics.
        self._values = Outbox(spool_dir / "values", Delivery(uri, run.run_id), "metrics", self._shown)
        self._files = Outbox(spool_dir / "files", Delivery(uri, run.run_id), "artifacts", self._shown)
        self._values.put(status_entry("RUNNING"))
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
        run = open_run(uri, spec, run_id) if mlflow_run_id is None else reopen_run(uri, mlflow_run_id)
        return cls(uri, run, run_id, spool_dir, spec.tracking.system_metrics)

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of one step.

        Args:
            step: Optimizer step.
            values: Metric by name.
        """
        self._values.put(metrics_entry(step, values))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Log what was found out about the run: digests, lineage."""
        self._values.put(tags_entry(tags))

    def log_inputs(self, datasets: Sequence[DatasetUse]) -> None:
        """Log the data sets of the run; those already logged are not doubled."""
        self._values.put(inputs_entry(datasets))

    def log_picture(self, name: str, png_path: Path) -> None:
        """Log a picture as the artifact `name`; the file may be deleted or change afterwards.

        Args:
            name: Path among the run's artifacts.
            png_path: The picture.
        """
        self._put_files(name, png_path)

    def log_folder(self, path: Path, name: str) -> None:
        """Log a folder's files as artifacts below `name`; the folder may be deleted or change afterwards.

        Args:
            path: The folder.
            name: Folder among the run's artifacts.
        """
        self._put_files(name, path)

    def history(self, name: str) -> dict[int, float]:
        """Return a metric's values by step, as far as MLflow has them; nothing where it does not answer."""
        try:
            return points(self._uri, self.mlflow_run_id, name)
        except Exception as error:  # of mlflow, requests, sqlalchemy or a driver
            _log.warning("the earlier steps of %s are not at hand: %s", name, self._shown(error))
            return {}

    def finish(
        self, status: Literal["finished", "failed", "interrupted"], timeout_s: float = FINISH_TIMEOUT_S
    ) -> dict[str, int]:
        """Deliver what is left and close the MLflow run.

        Args:
            status: How the training ended.
            timeout_s: Longest wait for MLflow in seconds.

        Returns:
            Number of entries that MLflow did not take, by kind; empty where it has everything. They stay on disk and
            are sent when the run is resumed.
        """
        if self._sampler:
            self._sampler.stop()
        self._values.put(status_entry(STATUS[status]))
        deadline = time.monotonic() + timeout_s
        left = {box.what: box.close(max(deadline - time.monotonic(), 0)) for box in (self._values, self._files)}
        left = {what: number for what, number in left.items() if number}
        if left:
            counts = ", ".join(f"{number} entries of {what}" for what, number in left.items())
            _log.warning(
                "MLflow did not take %s; they are kept in %s, and `raylora resume %s` sends them",
                *(counts, self._spool_dir, self._run_id),
            )
        else:
            shutil.rmtree(self._spool_dir, ignore_errors=True)
        return left

    def _put_files(self, name: str, source: Path) -> None:
        """Keep a copy until it is delivered: the original may be gone by then."""
        folder = self._spool_dir / "copies" / uuid.uuid4().hex
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)
        except OSError as error:
            _log.error("not tracked: %s: %s", name, error)
            return
        self._files.put(files_entry(folder))

    def _shown(self, error: Exception) -> str:
        return redacted(f"{type(error).__name__}: {error}", self._uri)
