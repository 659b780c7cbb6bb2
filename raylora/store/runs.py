"""The record of a run: what was asked, how it stands, what came out. One small JSON object per run.

Keys: ``runs/<run_id>/run.json``, beside the run's ``checkpoints/`` and ``adapter/``. In comes a specification, out
comes a `RunRecord`. Called by the launcher, and by the commands that list and resume runs.
"""

from __future__ import annotations

from typing import Any

from raylora.spec.run import RunSpec
from raylora.store.contract import Store
from raylora.store.records import Record, Records, StatusNow
from raylora.store.records import Status as RunStatus

__all__ = [
    "FOLDER",
    "RECORD",
    "RunRecord",
    "RunStatus",
    "has_run",
    "list_runs",
    "new_run",
    "read_run",
    "run_status_now",
    "run_store",
    "update_run",
    "write_run",
]

FOLDER, RECORD = "runs", "run.json"


class RunRecord(Record):
    """How one run stands."""

    run_id: str
    """Name of the run, sortable by the time it was created."""

    spec_digest: str
    """SHA-256 of the specification."""

    mlflow_run_id: str | None = None
    """Its one MLflow run."""


_RUNS = Records(RunRecord, "run", FOLDER, RECORD, "run `raylora runs`")


def new_run(spec: RunSpec) -> RunRecord:
    """Return the record of a new run, which has its name from now on; nothing is written yet.

    Args:
        spec: What was asked.
    """
    return _RUNS.begin(spec=spec.model_dump(mode="json"), spec_digest=spec.digest)


def write_run(store: Store, record: RunRecord) -> RunRecord:
    """Write a run's record with the present time, and return it; one driver at a time writes a run's record.

    Args:
        store: The store of all runs.
        record: How the run stands.
    """
    return _RUNS.write(store, record)


def update_run(store: Store, run_id: str, **changes: Any) -> RunRecord:
    """Change fields of a run's record and return it.

    Args:
        store: The store of all runs.
        run_id: Name of the run.
        changes: Fields of `RunRecord` and their new values.

    Raises:
        TypeError: `RunRecord` has no such field.
    """
    return _RUNS.update(store, run_id, **changes)


def read_run(store: Store, run_id: str) -> RunRecord:
    """Return a run's record.

    Args:
        store: The store of all runs.
        run_id: Name of the run.

    Raises:
        InputError: There is no such run.
        CorruptObjectError: Its record cannot be read.
    """
    return _RUNS.read(store, run_id)


def has_run(store: Store, run_id: str) -> bool:
    """Return whether there is a run of a name.

    Args:
        store: The store of all runs.
        run_id: The name.

    Raises:
        InputError: No run can have that name.
    """
    return _RUNS.has(store, run_id)


def list_runs(store: Store) -> list[RunRecord]:
    """Return all runs, newest first; records that cannot be read are passed over with a warning."""
    return _RUNS.all(store)


def run_status_now(store: Store, record: RunRecord) -> StatusNow:
    """Return how a run stands; one that says `running` and whose driver is gone is `lost`.

    Args:
        store: The store of all runs.
        record: As it was read.
    """
    return _RUNS.status_now(store, record)


def run_store(store: Store, run_id: str) -> Store:
    """Return the run's own store: its checkpoints and its adapter.

    Args:
        store: The store of all runs.
        run_id: Name of the run.
    """
    return _RUNS.place(store, run_id)
