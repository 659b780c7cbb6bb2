"""What each kind of spool entry means to MLflow. Every one may be sent twice and counts once.

In come entries of a spool, out go requests through MLflow's own client. MLflow keeps one row of a metric for equal key,
step, time and value, so repeating a batch adds nothing. Called by the outboxes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from raylora.errors import CorruptObjectError, MissingObjectError
from raylora.log import get_logger
from raylora.store.blob import open_store
from raylora.store.manifest import fetch
from raylora.tracking.children import Children
from raylora.tracking.entries import tags_entry
from raylora.tracking.inputs import DatasetUse, dataset_input
from raylora.tracking.lineage import lineage_tags
from raylora.tracking.new_run import log_missing_params
from raylora.tracking.spool import Entry

METRICS_PER_REQUEST, TAGS_PER_REQUEST = 1000, 100
"""MLflow's own limits."""

_log = get_logger(__name__)


class Delivery:
    """Sends entries to one run, or to those below it; connects at the first entry: a server may be down before.

    Args:
        uri: Tracking URI.
        run_id: MLflow's id of the run.
        children: The runs below it, where there are any.
    """

    def __init__(self, uri: str, run_id: str, children: Children | None = None) -> None:
        self._uri, self._run_id, self._children = uri, run_id, children
        self._client: MlflowClient | None = None

    def __call__(self, entries: Sequence[Entry]) -> None:
        """Send all entries, or raise what MLflow's client raises."""
        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._uri)
        by_child: dict[str | None, list[Entry]] = {}
        for entry in entries:
            by_child.setdefault(entry.get("child"), []).append(entry)
        for child, group in by_child.items():
            if child is None or self._children is None:
                self._send_all(self._client, self._run_id, group)
            else:
                self._send_to_child(self._client, self._children, child, group)

    def _send_to_child(self, client: MlflowClient, children: Children, child: str, entries: list[Entry]) -> None:
        first = entries[0]
        run_id = children.open(client, child, first["child_name"], first.get("time_ms"))
        try:
            self._send_all(client, run_id, entries)
        except MlflowException:
            if not children.is_gone(client, child):
                raise

    def _send_all(self, client: MlflowClient, run_id: str, entries: Sequence[Entry]) -> None:
        metrics = [
            Metric(name, value, entry["time_ms"], entry["step"])
            for entry in entries
            if entry["kind"] == "metrics"
            for name, value in entry["values"].items()
        ]
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])
        for entry in entries:
            _send(client, run_id, entry)


def _send(client: MlflowClient, run_id: str, entry: Entry) -> None:
    match entry:
        case {"kind": "tags", "tags": tags}:
            _send_tags(client, run_id, tags)
        case {"kind": "params", "params": params}:
            log_missing_params(client, client.get_run(run_id), params)
        case {"kind": "inputs", "datasets": datasets}:
            client.log_inputs(run_id, [dataset_input(DatasetUse(**use)) for use in datasets])
        case {"kind": "status", "status": "RUNNING"}:
            client.update_run(run_id, status="RUNNING")
        case {"kind": "status", "status": status, "time_ms": time_ms}:
            client.set_terminated(run_id, status, end_time=time_ms)
        case {"kind": "files", "folder": folder} if Path(folder).exists():
            client.log_artifacts(run_id, folder)
            shutil.rmtree(folder)
        case {"kind": "published", "store": store, "name": name}:
            _send_published(client, run_id, store, name)


def _send_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    pairs = [RunTag(name, value) for name, value in tags.items()]
    for start in range(0, len(pairs), TAGS_PER_REQUEST):
        client.log_batch(run_id, tags=pairs[start : start + TAGS_PER_REQUEST])


def _send_published(client: MlflowClient, run_id: str, store_uri: str, name: str) -> None:
    """Copy a published folder from its store, with its lineage; the driver did not wait to read it."""
    with TemporaryDirectory() as folder:
        try:
            manifest = fetch(open_store(store_uri), name, Path(folder, name))
        except (MissingObjectError, CorruptObjectError) as error:  # it will not come back by trying again
            _log.error("not tracked: %s: %s", name, error)
            return
        client.log_artifacts(run_id, folder)
    _send_tags(client, run_id, tags_entry(lineage_tags(manifest.about))["tags"])
