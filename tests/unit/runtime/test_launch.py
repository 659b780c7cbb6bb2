"""How a run's driver leaves MLflow's run: as it ended, or to the driver that goes on with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from mlflow import MlflowClient

from raylora.errors import RunFailedError
from raylora.runtime import launch
from raylora.runtime.stopping import StopWish
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.lease import Lease
from raylora.store.runs import new_run, run_store
from raylora.tracking.tracker import Tracker
from tests.unit.tracking.sqlite_home import client, home

__all__ = ["client", "home"]

pytestmark = pytest.mark.slow

SPEC = RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}], tracking={"system_metrics": False})


@pytest.mark.parametrize(("is_lost", "status"), [(True, "RUNNING"), (False, "FAILED")])
def test_a_driver_that_was_taken_over_does_not_say_how_the_run_ended(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool, status: str
):
    def follow(group: Any, mailbox: Any, ledger: Any, lease: Lease, *others: Any) -> None:
        lease._lost = is_lost
        lease.check()
        raise RunFailedError("rank 1: its process died")

    monkeypatch.setattr(launch, "_listen", follow)
    monkeypatch.setattr(launch, "ray", SimpleNamespace(get=lambda answer: answer))
    store, record = open_store(str(tmp_path / "store")), new_run(SPEC)
    lease = Lease(run_store(store, record.run_id), record.run_id)
    tracker = Tracker.start(SPEC, record.run_id, tmp_path / "spool")
    checked: Any = SimpleNamespace(store=store, base=SimpleNamespace(name="m"))
    try:
        with pytest.raises(RunFailedError, match="taken it over" if is_lost else "process died"):
            launch._run(SPEC, record, lease, checked, tracker, MagicMock(), MagicMock(), StopWish(), lambda event: None)
    finally:
        lease._lost = False  # to give it back
        lease.close()
    assert client.get_run(tracker.mlflow_run_id).info.status == status
