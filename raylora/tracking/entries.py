"""What can be told to MLflow, as entries of a spool: JSON that says everything, so that a later process can send it.

In come numbers, texts and places, out come entries. Called by the trackers; what each means is in `delivery`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from raylora.tracking.inputs import DatasetUse
from raylora.tracking.params import mlflow_name
from raylora.tracking.spool import Entry

LONGEST_TAG = 8000
"""MLflow's own limit, in characters."""


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


def params_entry(params: Mapping[str, str]) -> Entry:
    """Return parameters of the run; those that it has already stay as they are."""
    return {"kind": "params", "params": dict(params)}


def published_entry(store_uri: str, name: str) -> Entry:
    """Return a published folder of a store that becomes artifacts; it is read when it is delivered.

    Args:
        store_uri: The store that it lies in.
        name: Its prefix there, and among the artifacts.
    """
    return {"kind": "published", "store": store_uri, "name": name}


def now_ms() -> int:
    """Return the present time in MLflow's unit: milliseconds since 1970."""
    return time.time_ns() // 1_000_000
