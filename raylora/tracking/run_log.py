"""What can be logged to one MLflow run, whether a training of its own, a sweep or one of a sweep's trials.

In come metrics, inputs and files, out go entries that are on disk at once. Nothing here waits for MLflow. Called by the
runtime's ledger and the sweep's books.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from raylora.log import get_logger
from raylora.tracking.entries import (
    files_entry,
    inputs_entry,
    metrics_entry,
    params_entry,
    published_entry,
    status_entry,
    tags_entry,
)
from raylora.tracking.inputs import DatasetUse
from raylora.tracking.lanes import Lanes
from raylora.tracking.spool import Entry
from raylora.tracking.start import points

_log = get_logger(__name__)


@dataclass(frozen=True)
class Child:
    """A run below the one that the lanes lead to.

    Args:
        key: Name that it is found by.
        name: Shown in MLflow.
    """

    key: str
    name: str


class RunLog:
    """Logs to one MLflow run. No method raises for a failure of MLflow.

    Args:
        lanes: The ways there.
        child: Which of the runs below the lanes' own; that one itself where absent.
    """

    def __init__(self, lanes: Lanes, child: Child | None = None) -> None:
        self._lanes, self._child = lanes, child
        # Every entry says whose it is: a later process sends it without having known the trial.
        self._whose: Entry = {"child": child.key, "child_name": child.name} if child else {}

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of one step.

        Args:
            step: Optimizer step.
            values: Metric by name.
        """
        self._put(metrics_entry(step, values))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Log what was found out about the run: digests, lineage."""
        self._put(tags_entry(tags))

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters; one that the run has already stays, since MLflow lets none change."""
        self._put(params_entry(params))

    def log_inputs(self, datasets: Sequence[DatasetUse]) -> None:
        """Log the data sets of the run; those already logged are not doubled."""
        self._put(inputs_entry(datasets))

    def log_status(self, status: str) -> None:
        """Log how the run stands, in MLflow's word: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._put(status_entry(status))

    def log_text(self, name: str, text: str) -> None:
        """Log a text as the artifact `name`.

        Args:
            name: Path among the run's artifacts.
            text: What it holds.
        """
        self._put_files(name, lambda target: target.write_text(text, encoding="utf-8"))

    def log_picture(self, name: str, png_path: Path) -> None:
        """Log a picture, or another file, as the artifact `name`; it may be deleted or change afterwards.

        Args:
            name: Path among the run's artifacts.
            png_path: The picture.
        """
        self._put_files(name, lambda target: shutil.copyfile(png_path, target))

    def log_folder(self, path: Path, name: str) -> None:
        """Log a folder's files as artifacts below `name`; the folder may be deleted or change afterwards.

        Args:
            path: The folder.
            name: Folder among the run's artifacts.
        """
        self._put_files(name, lambda target: shutil.copytree(path, target))

    def log_published(self, store_uri: str, name: str) -> None:
        """Log a published folder of a store and its lineage; it is read when it is delivered, so it must stay.

        Args:
            store_uri: The store that it lies in.
            name: Its prefix there, and among the run's artifacts.
        """
        self._lanes.put_files(published_entry(store_uri, name) | self._whose)

    def history(self, name: str) -> dict[int, float]:
        """Return a metric's values by step, as far as MLflow has them; nothing where it does not answer."""

        def points_so_far() -> dict[int, float]:
            mlflow_run_id = self._mlflow_run_id()
            return {} if mlflow_run_id is None else points(self._lanes.uri, mlflow_run_id, name)

        return self._lanes.ask(points_so_far, {}, f"the earlier steps of {name} are not at hand")

    def last_step(self, name: str) -> int:
        """Return the newest step of a metric that MLflow has, or that is on its way there; -1 where there is none.

        Args:
            name: Of the metric, as it was logged.
        """
        pending = self._lanes.pending_values()  # asked first: what is delivered meanwhile is in the history
        on_the_way = (entry["step"] for entry in pending if self._is_own(entry) and name in entry.get("values", {}))
        return max((*on_the_way, *self.history(name)), default=-1)

    def _mlflow_run_id(self) -> str | None:
        """MLflow's id of the run; ``None`` where it has none. Of a trial it may have to be asked for."""
        children = self._lanes.children
        if self._child is None or children is None:
            return self._lanes.mlflow_run_id
        return children.find(MlflowClient(tracking_uri=self._lanes.uri), self._child.key)

    def _is_own(self, entry: Entry) -> bool:
        return bool(entry.get("child") == self._whose.get("child"))

    def _put(self, entry: Entry) -> None:
        self._lanes.put_value(entry | self._whose)

    def _put_files(self, name: str, copy: Callable[[Path], object]) -> None:
        """Keep a copy until it is delivered: the original may be gone by then."""
        folder = self._lanes.spool_dir / "copies" / uuid.uuid4().hex
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy(target)
        except OSError as error:
            _log.error("not tracked: %s: %s", name, error)
            return
        self._lanes.put_files(files_entry(folder) | self._whose)
