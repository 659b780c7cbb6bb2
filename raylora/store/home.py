"""Where raylora keeps what nobody named a place for: one folder, ``$RAYLORA_HOME`` or ``~/.raylora``.

In comes the environment, out go paths, URIs and commands; nothing is created here. Called by whatever needs a default.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return raylora's home as an absolute path."""
    named = os.environ.get("RAYLORA_HOME")
    return Path(named).expanduser().absolute() if named else Path.home() / ".raylora"


def cache_dir() -> Path:
    """Return the folder of converted models and tokenised rows; it can be deleted at any time."""
    return home() / "cache"


def spool_dir(name: str) -> Path:
    """Return the folder of what MLflow does not have yet of a run or a sweep.

    Args:
        name: Of the run or the sweep.
    """
    return home() / "spool" / name


def log_path(name: str) -> Path:
    """Return the file that a run or a sweep writes to where `raylora supervise` had it go on.

    Args:
        name: Of the run or the sweep.
    """
    return home() / "logs" / f"{name}.log"


def default_store_uri() -> str:
    """Return the folder that holds runs where ``storage.uri`` is absent."""
    return str(home() / "store")


def resume_command(name: str, store_uri: str | None) -> str:
    """Return what somebody types to have a run or a sweep go on.

    Args:
        name: Of the run or the sweep.
        store_uri: The store it is in; raylora's home where absent.
    """
    return f"raylora resume {name}{_where(store_uri)}"


def chat_command(name: str, store_uri: str | None) -> str:
    """Return what somebody types to talk to the adapter of a run.

    Args:
        name: Of the run.
        store_uri: The store it is in; raylora's home where absent.
    """
    return f"raylora chat {name}{_where(store_uri)}"


def default_mlflow_uri() -> str:
    """Return the SQLite database that holds MLflow's runs where nobody named a server."""
    return f"sqlite:///{home() / 'mlflow.db'}"


def _where(store_uri: str | None) -> str:
    return "" if store_uri in (None, default_store_uri()) else f" --store {store_uri}"
