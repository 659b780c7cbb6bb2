"""MLflow's SQLite store in a home of raylora's, for the tests that read what was tracked."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the module: MLflow takes seconds to make its database."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def client(home: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("RAYLORA_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return MlflowClient(f"sqlite:///{home}/mlflow.db")
