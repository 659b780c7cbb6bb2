"""What an MLflow run begins with: its tags, parameters and specification, of a training alone, of a sweep or a trial.

In come specifications, out come MLflow runs that are found again however often they are asked for. Called when a run
is opened, and by the delivery of a sweep's trials.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass

import yaml
from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pydantic import BaseModel

from raylora import __version__
from raylora.spec.fields.place import TrackingSpec
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.tracking.params import params

PARAMS_PER_REQUEST = 100
"""MLflow's own limit."""

RUN_TAG, SWEEP_TAG = "raylora.run_id", "raylora.sweep_id"
"""Tags by which the MLflow run of a training, or of a sweep, is found again."""

SPEC_FILE = "spec.yaml"


@dataclass(frozen=True)
class NewRun:
    """An MLflow run as it is to begin.

    Args:
        tracking: Where MLflow keeps it.
        tag: Name and value of the tag by which it is found again.
        name: Shown in MLflow.
        params: Short texts by name.
        digest: Of the specification.
        spec: The whole specification as YAML.
    """

    tracking: TrackingSpec
    tag: tuple[str, str]
    name: str
    params: Mapping[str, str]
    digest: str
    spec: str


def of_training(spec: RunSpec, run_id: str) -> NewRun:
    """Return the MLflow run of a training.

    Args:
        spec: What is trained.
        run_id: raylora's own name of the run.
    """
    return NewRun(spec.tracking, (RUN_TAG, run_id), spec.run_name or run_id, params(spec), spec.digest, spec_text(spec))


def of_sweep(spec: SweepSpec, sweep_id: str) -> NewRun:
    """Return the MLflow run of a sweep, the parent of its trials'.

    Args:
        spec: What is searched.
        sweep_id: raylora's own name of the sweep.
    """
    run = spec.run
    return NewRun(
        run.tracking, (SWEEP_TAG, sweep_id), run.run_name or sweep_id, params(spec), spec.digest, spec_text(spec)
    )


def spec_text(spec: BaseModel) -> str:
    """Return a whole specification as YAML."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def find_or_create(
    client: MlflowClient,
    experiment_id: str,
    tag: tuple[str, str],
    name: str,
    digest: str | None = None,
    parent_id: str | None = None,
    started_ms: int | None = None,
) -> Run:
    """Return the MLflow run with a tag; it is made where there is none.

    Args:
        client: MLflow's.
        experiment_id: MLflow's id of the experiment.
        tag: Name and value of the tag by which it is found.
        name: Shown in MLflow.
        digest: Of the specification, where it is at hand.
        parent_id: MLflow's id of the run that it belongs to.
        started_ms: When it began, in milliseconds since 1970; now where absent.
    """
    if found := find(client, experiment_id, tag):
        return found
    tags = {
        **dict([tag]),
        **({"raylora.spec_digest": digest} if digest else {}),
        **({MLFLOW_PARENT_RUN_ID: parent_id} if parent_id else {}),
        "raylora.version": __version__,
        "mlflow.source.name": "raylora",
        "mlflow.user": _user(),
    }
    return client.create_run(experiment_id, start_time=started_ms, tags=tags, run_name=name)


def find(client: MlflowClient, experiment_id: str, tag: tuple[str, str]) -> Run | None:
    """Return the MLflow run with a tag; ``None`` where there is none.

    Args:
        client: MLflow's.
        experiment_id: MLflow's id of the experiment.
        tag: Name and value of the tag.
    """
    found = client.search_runs([experiment_id], f"tags.`{tag[0]}` = '{tag[1]}'", max_results=1)
    return found[0] if found else None


def _user() -> str:
    """Who runs this; in a container it may be a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return str(os.getuid())


def log_missing_params(client: MlflowClient, run: Run, wanted: Mapping[str, str]) -> None:
    """Log the parameters that a run does not have: MLflow refuses to change one.

    Args:
        client: Of the server that has the run.
        run: As just read, with the parameters that it has.
        wanted: All that it should have.
    """
    missing = [Param(name, value) for name, value in wanted.items() if name not in run.data.params]
    for start in range(0, len(missing), PARAMS_PER_REQUEST):
        client.log_batch(run.info.run_id, params=missing[start : start + PARAMS_PER_REQUEST])
