"""What the tests of a sweep's books share: MLflow's SQLite store, and a store of sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from raylora.store.blob import open_store
from raylora.store.contract import Store


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the module: MLflow takes seconds to make its database."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def client(home: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("RAYLORA_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return MlflowClient(f"sqlite:///{home}/mlflow.db")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))
