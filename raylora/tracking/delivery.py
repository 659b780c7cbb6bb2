"""What each kind of spool entry means to MLflow. Every one may be sent twice and counts once.

In come entries of a spool, out go requests through MLflow's own client. MLflow keeps one row of a metric for equal key,
step, time and value, so repeating a batch adds nothing. Called by the flushers; the makers of entries are here too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from raylora.tracking.inputs import DatasetUse, dataset_input
from raylora.tracking.params import mlflow_name
from raylora.tracking.spool import Entry

LONGEST_TAG, METRICS_PER_REQUEST, TAGS_PER_REQUEST = 8000, 1000, 100
"""MLflow's own limits."""


def metrics_entry(step: int, values: Mapping[str, float]) -> Entry:
    """Return metrics of one step, stamped with the present time.

    Args:
        step: Optimizer step.
        values: Metric by name.
    """
    clean = {mlflow_name(name): float(value) for name, value in values.items()}
    return {"kind": "metrics", "step": step, "time_ms": now_ms(), "values": clean}


def tags_entry(tags: Mapping[str, str]) -> Entry:
    """Return tags of the run."""
    return {"kind": "tags", "tags": {mlflow_name(name): value[:LONGEST_TAG] for name, value in tags.items()}}


def inputs_entry(datasets: Sequence[DatasetUse]) -> Entry:
    """Return data sets of the run."""
    return {"kind": "inputs", "datasets": [asdict(use) for use in datasets]}


def files_entry(folder: Path) -> Entry:
    """Return a folder whose content becomes artifacts; it is deleted once it was delivered."""
    return {"kind": "files", "folder": str(folder)}


def status_entry(status: str) -> Entry:
    """Return a change of the run's status, such as ``FINISHED``."""
    return {"kind": "status", "status": status, "time_ms": now_ms()}


class Delivery:
    """Sends entries to one run; connects at the first entry, so that a server may be down when it is made.

    Args:
        uri: Tracking URI.
        run_id: MLflow's id of the run.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self._uri, self._run_id = uri, run_id
        self._client: MlflowClient | None = None

    def __call__(self, entries: Sequence[Entry]) -> None:
        """Send all entries, or raise what MLflow's client raises."""
        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._uri)
        self._send_metrics(self._client, [entry for entry in entries if entry["kind"] == "metrics"])
        for entry in entries:
            self._send(self._client, entry)

    def _send_metrics(self, client: MlflowClient, entries: Sequence[Entry]) -> None:
        metrics = [
            Metric(name, value, entry["time_ms"], entry["step"])
            for entry in entries
            for name, value in entry["values"].items()
        ]
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            client.log_batch(self._run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])

    def _send(self, client: MlflowClient, entry: Entry) -> None:
        match entry:
            case {"kind": "tags", "tags": tags}:
                pairs = [RunTag(name, value) for name, value in tags.items()]
                for start in range(0, len(pairs), TAGS_PER_REQUEST):
                    client.log_batch(self._run_id, tags=pairs[start : start + TAGS_PER_REQUEST])
            case {"kind": "inputs", "datasets": datasets}:
                client.log_inputs(self._run_id, [dataset_input(DatasetUse(**use)) for use in datasets])
            case {"kind": "status", "status": "RUNNING"}:
                client.update_run(self._run_id, status="RUNNING")
            case {"kind": "status", "status": status, "time_ms": time_ms}:
                client.set_terminated(self._run_id, status, end_time=time_ms)
            case {"kind": "files", "folder": folder} if Path(folder).exists():
                client.log_artifacts(self._run_id, folder)
                shutil.rmtree(folder)


def now_ms() -> int:
    """Return the present time in MLflow's unit: milliseconds since 1970."""
    return time.time_ns() // 1_000_000
