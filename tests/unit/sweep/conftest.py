"""What the tests of a sweep's books share: MLflow's SQLite store, and a store of sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.store.blob import open_store
from raylora.store.contract import Store
from tests.unit.tracking.sqlite_home import client, home

__all__ = ["client", "home"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))
