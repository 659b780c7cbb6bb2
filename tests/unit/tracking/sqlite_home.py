"""MLflow's SQLite store in a home of raylora's, for the tests that read what was tracked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient


@pytest.fixture(scope="module")
def home(mlflow_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the module, with MLflow's tables."""
    return Path(shutil.copy(mlflow_tables, tmp_path_factory.mktemp("home"))).parent


@pytest.fixture
def client(home: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("RAYLORA_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return MlflowClient(f"sqlite:///{home}/mlflow.db")
