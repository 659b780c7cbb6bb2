"""The beginning of a run in MLflow, while an error still costs nothing: experiment, run, parameters, first artifact.

In comes what it begins with, out comes the one MLflow run of a training or a sweep. Called by the trackers before
training starts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Queue
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from raylora.errors import InputError, RayloraError, TrackingError
from raylora.log import get_logger
from raylora.spec.fields.place import TrackingSpec
from raylora.spec.text.secrets import without_secret
from raylora.store.retry import retrying
from raylora.tracking.address import default_artifact_uri, make_database_folder, redacted
from raylora.tracking.entries import now_ms
from raylora.tracking.new_run import SPEC_FILE, NewRun, find_or_create, log_missing_params

T = TypeVar("T")

PATIENCE_S = 20.0
_log = get_logger(__name__)


@dataclass(frozen=True)
class OpenRun:
    """A run that MLflow knows.

    Args:
        run_id: MLflow's id of it.
        experiment_id: MLflow's id of its experiment; ``None`` while the server cannot be asked.
        started_ms: When it began, in milliseconds since 1970.
    """

    run_id: str
    experiment_id: str | None
    started_ms: int


def open_run(uri: str, new: NewRun) -> OpenRun:
    """Create the MLflow run of a training or a sweep, or find it if an earlier try already did.

    Args:
        uri: Tracking URI.
        new: What it begins with.

    Raises:
        TrackingError: MLflow does not answer, or refuses the run or its first artifact.
        InputError: The experiment keeps its artifacts elsewhere than asked.
    """

    def create() -> OpenRun:
        make_database_folder(uri)
        client = MlflowClient(tracking_uri=uri)
        experiment = _experiment(client, uri, new.tracking)
        run = find_or_create(client, experiment.experiment_id, new.tag, new.name, new.digest)
        log_missing_params(client, run, new.params)
        _log_spec(client, run, new.spec)
        return _opened(run)

    try:
        return _asked(uri, create)
    except Exception as error:  # of mlflow, requests, sqlalchemy or a driver
        raise _explained(error, uri) from error


def reopen_run(uri: str, mlflow_run_id: str) -> OpenRun:
    """Return a run that was created before; a server that is down stops no training from going on.

    Args:
        uri: Tracking URI.
        mlflow_run_id: MLflow's id of the run.

    Raises:
        TrackingError: MLflow has no such run.
    """

    def find() -> OpenRun:
        run = MlflowClient(tracking_uri=uri).get_run(mlflow_run_id)
        if run.info.lifecycle_stage != "active":
            raise TrackingError(f"MLflow run {mlflow_run_id} was deleted; run `mlflow runs restore` on it, then resume")
        return _opened(run)

    try:
        return _asked(uri, find)
    except Exception as error:  # of mlflow, requests, sqlalchemy or a driver
        if _is_transient(error):
            _log.warning("%s; training goes on without it", _explained(error, uri))
            return OpenRun(mlflow_run_id, None, now_ms())
        raise _explained(error, uri) from error


def check_answers(uri: str, patience_s: float = PATIENCE_S) -> None:
    """Ask MLflow for one experiment, once; nothing is made.

    Args:
        uri: Tracking URI.
        patience_s: Seconds to wait: drivers of databases have patience of their own.

    Raises:
        TrackingError: MLflow does not answer, or refuses.
    """
    answers: Queue[Exception | None] = Queue()

    def ask() -> None:
        try:
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        except Exception as error:  # of mlflow, requests, sqlalchemy or a driver
            answers.put(error)
        else:
            answers.put(None)

    threading.Thread(target=ask, name="raylora-ask-mlflow", daemon=True).start()
    try:
        error = answers.get(timeout=patience_s)
    except Empty:
        error = TimeoutError(f"nothing came in {patience_s:g} s")
    if error is not None:
        raise _explained(error, uri) from error


def points(uri: str, mlflow_run_id: str, name: str) -> dict[int, float]:
    """Return a metric's values by step; asks once.

    Args:
        uri: Tracking URI.
        mlflow_run_id: MLflow's id of the run.
        name: Of the metric.
    """
    found = MlflowClient(tracking_uri=uri).get_metric_history(mlflow_run_id, name)
    return {point.step: point.value for point in found}


def _experiment(client: MlflowClient, uri: str, tracking: TrackingSpec) -> Experiment:
    name, wanted = tracking.experiment, tracking.artifact_uri
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        created = client.create_experiment(name, artifact_location=wanted or default_artifact_uri(uri))
        experiment = client.get_experiment(created)
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"tracking.experiment: '{name}' was deleted in MLflow; name another, or run "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
        )
    if wanted is not None and experiment.artifact_location.rstrip("/") != wanted.rstrip("/"):
        raise InputError(
            f"tracking.artifact_uri: experiment '{name}' keeps its artifacts in {experiment.artifact_location}, not in "
            f"{wanted}; that cannot change: leave artifact_uri out or name another experiment"
        )
    return experiment


def _log_spec(client: MlflowClient, run: Run, text: str) -> None:
    """Keep the whole specification, and find out now whether artifacts can be written."""
    try:
        client.log_text(run.info.run_id, text, SPEC_FILE)
    except Exception as error:  # every artifact store raises errors of its own
        client.set_terminated(run.info.run_id, "FAILED")
        raise TrackingError(
            f"MLflow's artifacts cannot be written to {without_secret(run.info.artifact_uri)}: "
            f"{type(error).__name__}: {error}; correct tracking.artifact_uri or its credentials"
        ) from error


def _opened(run: Run) -> OpenRun:
    return OpenRun(run.info.run_id, run.info.experiment_id, run.info.start_time)


def _asked(uri: str, action: Callable[[], T]) -> T:
    what = f"MLflow at {without_secret(uri)}"
    return retrying(action, what=what, is_transient=_is_transient, patience_s=PATIENCE_S)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, MlflowException):
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            return True  # another run has just made the experiment, so the next try finds it
        status = int(error.get_http_status_code())
        return status >= 500 or status in (408, 429)
    return not isinstance(error, RayloraError | ImportError | TypeError | ValueError)


def _explained(error: Exception, uri: str) -> RayloraError:
    if isinstance(error, RayloraError):
        return error
    problem = "does not answer" if _is_transient(error) else "refuses the run"
    return TrackingError(
        f"MLflow at {without_secret(uri)} {problem} ({type(error).__name__}: {redacted(str(error), uri)}); start or "
        "correct it, or name another by tracking.uri or MLFLOW_TRACKING_URI"
    )
