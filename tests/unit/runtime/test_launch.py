"""How a run's driver leaves MLflow's run: as it ended, or to the driver that goes on with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mlflow import MlflowClient

from raylora.errors import RunFailedError
from raylora.runtime import launch
from raylora.runtime.cluster.mailbox import Job
from raylora.runtime.stopping import StopWish
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.fence import key_of
from raylora.store.lease import Lease, is_deserted
from raylora.store.runs import new_run, read_run, run_store, write_run
from raylora.tracking.tracker import Tracker
from raylora.train.events import Event
from tests.unit.runtime.handles import Handle, NoRay
from tests.unit.store.other_driver import OTHER, take_over
from tests.unit.tracking.sqlite_home import client, home

__all__ = ["client", "home"]

pytestmark = pytest.mark.slow

SPEC = RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}], tracking={"system_metrics": False})


class Post:
    """A mailbox into which nobody puts anything."""

    def post_job(self, job: Job) -> None:
        pass

    def after(self, number: int, patience_s: float) -> list[Event]:
        return []


class Workers:
    """A group that dies.

    Args:
        before: What happens before.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before

    @property
    def running(self) -> bool:
        self._before()
        return False

    def check(self) -> None:
        raise RunFailedError("rank 1: its process died")


@pytest.mark.parametrize(("is_lost", "status"), [(True, "RUNNING"), (False, "FAILED")])
def test_a_driver_that_was_taken_over_does_not_say_how_the_run_ended(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool, status: str
):
    store, record = open_store(str(tmp_path / "store")), new_run(SPEC).model_copy(update={"folder": "/of/another"})
    own = run_store(store, record.run_id)
    monkeypatch.setattr(launch, "ray", NoRay)
    tracker = Tracker.start(SPEC, record.run_id, tmp_path / "spool")
    checked: Any = SimpleNamespace(store=store, base=SimpleNamespace(name="m"))
    group, mailbox = (
        cast("Any", Workers(lambda: take_over(own, lambda: lease.lost or not is_lost))),
        cast("Any", Handle(Post())),
    )
    with (
        closing(Lease(own, record.run_id, beat_s=0.05)) as lease,
        pytest.raises(RunFailedError, match="taken it over" if is_lost else "process died"),
    ):
        launch._run(SPEC, record, lease, checked, tracker, group, mailbox, StopWish(), lambda event: None)
    assert client.get_run(tracker.mlflow_run_id).info.status == status
    assert is_deserted(own) != is_lost, "what the other driver holds is left to it"
    assert read_run(store, record.run_id).folder == str(Path.cwd()), "where its paths were found last"


def test_where_a_run_was_moved_to_it_stays_for_whoever_goes_on_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A supervisor has no words of a person's; it was back where nobody wanted it any more."""
    asked: list[tuple[RunSpec, Any]] = []

    def note(spec: RunSpec, record: Any, lease: Lease, listen: object) -> dict[str, Any]:
        asked.append((spec, record))
        return {}

    monkeypatch.setattr(launch, "_launch", note)
    spec = RunSpec.model_validate(SPEC.model_dump() | {"gradient_accumulation_steps": 4})
    store = open_store(str(tmp_path / "store"))
    name = write_run(store, new_run(spec)).run_id
    launch.resume(name, store.uri, overrides=["distributed.num_workers=2"])
    moved, record = asked.pop()
    assert (moved.distributed.num_workers, moved.rows_per_step) == (2, spec.rows_per_step)
    assert (record.spec["storage"], record.spec_digest) == (new_run(spec).spec["storage"], moved.digest)
    write_run(store, record)  # as `_run` does when it has the lease
    launch.resume(name, store.uri)
    assert asked.pop()[0] == moved


def test_a_driver_that_was_taken_over_while_its_workers_ended_writes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, record = open_store(str(tmp_path / "store")), new_run(SPEC)
    own = run_store(store, record.run_id)
    write_run(store, record)

    @contextmanager
    def workers(spec: RunSpec) -> Iterator[tuple[None, None]]:
        yield None, None
        own.write(key_of(2), OTHER)

    monkeypatch.setattr(launch, "_workers", workers)
    monkeypatch.setattr(launch, "cluster", lambda spec: nullcontext())
    monkeypatch.setattr(launch, "stop_wish", lambda: nullcontext(StopWish()))
    checked = SimpleNamespace(store=store)
    monkeypatch.setattr(launch, "checking", lambda spec: SimpleNamespace(result=lambda: checked))
    monkeypatch.setattr(launch, "_tracker", lambda spec, record: None)
    monkeypatch.setattr(launch, "_run", lambda *told: {"status": "finished"})
    with closing(Lease(own, record.run_id)) as lease:
        lease.take()
        with pytest.raises(RunFailedError, match="taken it over"):
            launch._launch(SPEC, record, lease, lambda event: None)
    assert read_run(store, record.run_id).status == record.status
