"""The record of a run: what was asked, how it stands, what came out. One small JSON object per run.

Keys: ``runs/<run_id>/run.json``, beside the run's ``checkpoints/`` and ``adapter/``. In comes a specification, out
comes a `RunRecord`. Called by the launcher, and by the commands that list and resume runs.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raylora import __version__
from raylora.errors import CorruptObjectError, InputError, MissingObjectError
from raylora.log import get_logger
from raylora.spec.run import RunSpec
from raylora.store.contract import Store

FOLDER, RECORD = "runs", "run.json"

RunStatus = Literal["running", "finished", "failed", "interrupted"]

_log = get_logger(__name__)


class RunRecord(BaseModel):
    """How one run stands."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer raylora may have written more

    run_id: str
    """Name of the run, sortable by the time it was created."""

    status: RunStatus
    """How it stands; a run whose driver was killed stays `running`."""

    created: datetime
    """When it was first started."""

    updated: datetime
    """When this record was last written."""

    spec: dict[str, Any]
    """The resolved specification as JSON."""

    spec_digest: str
    """SHA-256 of the specification."""

    mlflow_run_id: str | None = None
    """Its one MLflow run."""

    result: dict[str, Any] | None = None
    """What it ended with."""

    error: str | None = None
    """Why it ended without a result."""

    raylora: str = __version__
    """Version that started it."""


def new_run(spec: RunSpec) -> RunRecord:
    """Return the record of a new run, which has its name from now on; nothing is written yet.

    Args:
        spec: What was asked.
    """
    now = datetime.now(UTC)
    return RunRecord(
        run_id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        status="running",
        created=now,
        updated=now,
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest,
    )


def write_run(store: Store, record: RunRecord) -> RunRecord:
    """Write a run's record with the present time, and return it; one driver at a time writes a run's record.

    Args:
        store: The store of all runs.
        record: How the run stands.
    """
    record = record.model_copy(update={"updated": datetime.now(UTC)})
    store.write(_key(record.run_id), record.model_dump_json(indent=1).encode())
    return record


def update_run(store: Store, run_id: str, **changes: Any) -> RunRecord:
    """Change fields of a run's record and return it.

    Args:
        store: The store of all runs.
        run_id: Name of the run.
        changes: Fields of `RunRecord` and their new values.

    Raises:
        TypeError: `RunRecord` has no such field.
    """
    if unknown := changes.keys() - RunRecord.model_fields.keys():
        raise TypeError(f"a run's record has no {sorted(unknown)}")
    fields = read_run(store, run_id).model_dump() | changes
    return write_run(store, RunRecord.model_validate(fields))


def read_run(store: Store, run_id: str) -> RunRecord:
    """Return a run's record.

    Args:
        store: The store of all runs.
        run_id: Name of the run.

    Raises:
        InputError: There is no such run.
        CorruptObjectError: Its record cannot be read.
    """
    key = _key(run_id)
    try:
        return RunRecord.model_validate_json(store.read(key))
    except MissingObjectError as error:
        newest = ", ".join(_run_ids(store)[:3]) or "no runs"
        raise InputError(f"run '{run_id}' is not in {store.uri}; there: {newest}; run `raylora runs`") from error
    except ValidationError as error:
        raise CorruptObjectError(f"{store.uri_of(key)}: not the record of a run ({error})") from error


def list_runs(store: Store) -> list[RunRecord]:
    """Return all runs, newest first; records that cannot be read are passed over with a warning."""
    records = []
    for run_id in _run_ids(store):
        try:
            records.append(read_run(store, run_id))
        except CorruptObjectError as error:
            _log.warning("%s", error)
    return records


def run_store(store: Store, run_id: str) -> Store:
    """Return the run's own store: its checkpoints and its adapter.

    Args:
        store: The store of all runs.
        run_id: Name of the run.
    """
    return store.child(f"{FOLDER}/{run_id}")


def _run_ids(store: Store) -> list[str]:
    paths = (key.split("/") for key in store.keys(FOLDER))
    return sorted((path[1] for path in paths if len(path) == 3 and path[2] == RECORD), reverse=True)


def _key(run_id: str) -> str:
    return f"{FOLDER}/{run_id}/{RECORD}"
