"""Servers that several rooms' tests share: each is started once, when the first test asks for it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import settings

from tests.left_out import is_left_out
from tests.servers.hub import Hub
from tests.servers.mlflow import MlflowServer
from tests.servers.postgres import PostgresServer, postgres
from tests.servers.process import Server
from tests.servers.s3 import S3Server
from tests.variables import set_variables

set_variables()

# Torch, Ray and transformers are a million objects: Python's looks for garbage among them take a sixth of the time.
gc.set_threshold(50_000)

# A busy machine is no failure, and a failure found once is to be found again.
settings.register_profile("raylora", deadline=None, derandomize=True)
# Who looks for what nobody has found yet says HYPOTHESIS_PROFILE=search; a failure prints how to see it again.
settings.register_profile("search", deadline=None, derandomize=False, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "raylora"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.lanes import Lanes

    return Lanes(config, log)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_file = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_file and is_left_out(collection_path, config.option.markexpr) else None


def served(server: Server | Hub) -> Iterator[Server | Hub]:
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raylora's cache for the packaged model, which takes long to convert: one for all lanes, with its own locks."""
    folder = tmp_path_factory.getbasetemp()
    cache = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(scope="session")
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables and nothing else, to be copied: MLflow takes seconds to build them."""
    from mlflow import MlflowClient

    tables = tmp_path_factory.mktemp("tables") / "mlflow.db"
    MlflowClient(f"sqlite:///{tables}").search_experiments()
    return tables


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with the bucket `raylora`; its `.env` is not set for this process."""
    yield from served(S3Server(tmp_path_factory.mktemp("s3")))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """MLflow on SQLite, artifacts in a folder."""
    yield from served(MlflowServer(tmp_path_factory.mktemp("mlflow")))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """PostgreSQL, run by a user that is not root."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_on_postgres(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, s3_server: S3Server
) -> Iterator[MlflowServer]:
    """MLflow on PostgreSQL that keeps its clients' artifacts in the bucket."""
    folder = tmp_path_factory.mktemp("mlflow-postgres")
    artifacts = s3_server.uri("mlflow-artifacts")
    yield from served(MlflowServer(folder, postgres_server.uri, artifacts, env=s3_server.env))


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """This process as the bucket's owner."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def hub_server(tmp_path: Path) -> Iterator[Hub]:
    """A hub without repositories; this process does not know it."""
    yield from served(Hub(tmp_path / "hub-server"))


@pytest.fixture
def hub_env(hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """This process as a client of the hub, with empty caches."""
    # Imported here: they read the variables above once.
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.uri)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_server.uri + urlsplit(template).path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub_server.uri)
    return hub_server
