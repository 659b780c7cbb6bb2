"""Where MLflow is, and how to name it without its password.

In come the configuration and the environment, out come addresses. Called by the tracker and by `raylora doctor`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from raylora.errors import InputError
from raylora.spec.fields.place import TrackingSpec
from raylora.spec.text.secrets import secrets_of, without_secret
from raylora.store.home import default_mlflow_uri, home

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")


def tracking_uri(tracking: TrackingSpec) -> str:
    """Return the MLflow tracking URI: the configuration's, ``MLFLOW_TRACKING_URI``'s, or SQLite in raylora's home.

    The result may carry a password that came from the environment; show `without_secret` of it only.

    Raises:
        InputError: It is no server and no database. MLflow 3 refuses plain folders.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or default_mlflow_uri()
    if _scheme(uri) not in (*DATABASES, *SERVERS):
        raise InputError(
            f"tracking.uri: '{without_secret(uri)}' is no MLflow server and no database; allowed: "
            f"{', '.join(f'{scheme}://' for scheme in (*SERVERS[:2], *DATABASES[:2]))} and other databases"
        )
    return uri


def default_artifact_uri(uri: str) -> str | None:
    """Return where a new experiment keeps artifacts when nobody says; ``None`` leaves it to the server.

    A database has no say, and MLflow would take a folder below the working directory.
    """
    return (home() / "mlartifacts").as_uri() if _scheme(uri) in DATABASES else None


def redacted(text: str, uri: str) -> str:
    """Return `text`, such as an error of a database driver, without the URI's password and with its address cleaned.

    Args:
        text: What is to be shown.
        uri: Tracking URI, whose password may be in the text.
    """
    text = text.replace(uri, without_secret(uri))
    for secret in secrets_of(uri):
        text = text.replace(secret, "***")
    return text


def how_to_open(uri: str, experiment_id: str | None, run_id: str) -> str:
    """Return the address of a run's page, or the command that serves it.

    Args:
        uri: Tracking URI.
        experiment_id: MLflow's id of the experiment, where known.
        run_id: MLflow's id of the run.
    """
    shown = without_secret(uri)
    if _scheme(uri) in DATABASES:
        return f"{_mlflow_command()} ui --backend-store-uri {shown}"
    page = f"/#/experiments/{experiment_id}/runs/{run_id}" if experiment_id else ""
    return shown.rstrip("/") + page


def _mlflow_command() -> str:
    """The `mlflow` beside this Python, as it can be typed in any folder: theirs may know none, or another one."""
    beside = Path(sys.executable).with_name("mlflow")
    known = shutil.which("mlflow")
    if not beside.exists() or (known is not None and beside.samefile(known)):
        return "mlflow"
    return str(beside)


def make_database_folder(uri: str) -> None:
    """Make the folder of an SQLite file; SQLite makes the file alone."""
    if file := sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; ``None`` for other URIs."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+).*", uri)
    return Path(match[1]) if match else None


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].partition("+")[0].lower()
