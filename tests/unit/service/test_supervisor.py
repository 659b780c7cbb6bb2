"""A supervisor with a real store and real processes, which end at once in place of training."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from raylora.cli.supervise import MAX_CONCURRENT
from raylora.errors import StoreError
from raylora.service import supervisor as supervisor_module
from raylora.service.supervisor import LIVED_S, RESTS_S, Supervisor
from raylora.spec.run import RunSpec
from raylora.store.blob import Store, open_store
from raylora.store.lease import Lease
from raylora.store.runs import new_run, run_store, update_run, write_run
from raylora.store.sweeps import new_sweep, sweep_store, write_sweep

LONG = "import sys; sys.stdin.read()"


class Resumes:
    """What a supervisor had go on, each a process that ends with a code when it is told to.

    Args:
        code: Exit code of each.
    """

    def __init__(self, code: int) -> None:
        self.code, self.names, self._processes = code, list[str](), list[subprocess.Popen[bytes]]()
        self.folders: list[Path | None] = []

    def __call__(self, name: str, folder: Path | None) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-S", "-c", f"{LONG}; sys.exit({self.code})"]
        self.names.append(name)
        self.folders.append(folder)
        self._processes.append(subprocess.Popen(words, stdin=subprocess.PIPE))
        return self._processes[-1]

    def end(self) -> None:
        for process in self._processes:
            process.communicate(timeout=60)
        self._processes.clear()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def run_id(store: Store) -> str:
    """A run that says that it trains and that nobody works on."""
    return write_run(store, new_run(RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}]))).run_id


@contextmanager
def supervised(store: Store, code: int = 0, at_once: int = MAX_CONCURRENT) -> Iterator[tuple[Supervisor, Resumes]]:
    resumes = Resumes(code)
    try:
        yield Supervisor(store, resumes, at_once), resumes
    finally:
        resumes.end()


def test_what_is_lost_is_resumed_once_while_it_goes_on(store: Store, run_id: str):
    sweep_id = write_sweep(store, new_sweep({"run": {}})).sweep_id
    with supervised(store) as (supervisor, resumes):
        supervisor.look()
        supervisor.look()
        assert resumes.names == [run_id, sweep_id]
        assert set(supervisor.at_work) == {run_id, sweep_id}
        resumes.end()
        assert supervisor.at_work == {}


def test_what_somebody_works_on_or_has_ended_is_left_alone(store: Store, run_id: str):
    lease = Lease(run_store(store, run_id), run_id)
    lease.take()
    with supervised(store) as (supervisor, resumes):
        supervisor.look()
        for status in ("finished", "failed", "interrupted"):
            update_run(store, run_id, status=status, result={"eval_loss": 1.0} if status == "finished" else None)
            lease.close()
            supervisor.look()
        assert resumes.names == []
        update_run(store, run_id, status="running")
        supervisor.look()
        assert resumes.names == [run_id]


def test_few_go_on_at_once_the_oldest_first(store: Store, run_id: str, caplog: pytest.LogCaptureFixture):
    """A store of a service may have any number of them, each of which would be a process here."""
    caplog.set_level(logging.INFO)
    spec = RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}])
    names = [run_id, *(write_run(store, new_run(spec)).run_id for _ in range(2))]
    names.append(write_sweep(store, new_sweep({"run": {}})).sweep_id)
    with supervised(store, at_once=2) as (supervisor, resumes):
        for _ in range(2):
            supervisor.look()
            assert resumes.names == names[:2]
        assert caplog.text.count("2 more are lost") == 1
        for name in names[:2]:
            update_run(store, name, status="finished", result={"eval_loss": 1.0})
        resumes.end()
        supervisor.look()
        assert resumes.names == names
        assert set(supervisor.at_work) == set(names[2:])


def test_each_goes_on_in_its_own_folder_where_that_is_here(
    store: Store, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    spec = RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}])
    folders = [tmp_path / name for name in ("here", "gone")]
    for folder in folders:
        folder.mkdir()
        monkeypatch.chdir(folder)
        write_run(store, new_run(spec))
    monkeypatch.chdir(tmp_path)
    folders[1].rmdir()
    old = json.loads(store.read(f"runs/{run_id}/run.json"))
    del old["folder"]  # as earlier versions wrote it
    store.write(f"runs/{run_id}/run.json", json.dumps(old).encode())
    with supervised(store) as (supervisor, resumes):
        supervisor.look()
        assert resumes.folders == [None, folders[0], None]
    assert f"its folder {folders[1]} is not on this machine" in caplog.text


@pytest.mark.parametrize("what", ["a lost cluster", "the rest for MLflow"])
def test_what_can_go_on_does_when_its_driver_has_left(store: Store, what: str):
    """Who saw its cluster lost says that it failed; a sweep that came to its end may lack its report."""
    if what == "a lost cluster":
        run = write_run(store, new_run(RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}])))
        update_run(store, run.run_id, status="failed", lost_cluster=True)
        name, place = run.run_id, run_store(store, run.run_id)
    else:
        sweep = write_sweep(store, new_sweep({"run": {}}).model_copy(update={"status": "finished"}))
        name, place = sweep.sweep_id, sweep_store(store, sweep.sweep_id)
    lease = Lease(place, name)
    lease.take()
    with supervised(store) as (supervisor, resumes):
        supervisor.look()
        assert resumes.names == []
        lease.close()
        supervisor.look()
        assert resumes.names == [name]


def test_what_is_lost_again_and_again_is_given_time(store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(supervisor_module, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    begun_at: list[float] = []
    with supervised(store, code=1) as (supervisor, resumes):
        for _ in range(200):
            supervisor.look()
            begun_at += [clock.now_s] * (len(resumes.names) - len(begun_at))
            resumes.end()
            clock.now_s += 10.0
        assert [later - earlier for earlier, later in pairwise(begun_at)][:4] == [*RESTS_S[1:], RESTS_S[-1]]
        clock.now_s = begun_at[-1] + RESTS_S[-1]
        supervisor.look()
        clock.now_s += LIVED_S
        resumes.end()
        supervisor.look()
        assert len(resumes.names) == len(begun_at) + 2, "it had gone on for long"


def test_time_in_which_one_waits_for_another_is_none_that_it_went_on(
    store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
):
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(supervisor_module, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    other = write_run(store, new_run(RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}]))).run_id
    with supervised(store, code=1, at_once=1) as (supervisor, resumes):
        supervisor.look()
        resumes.end()
        clock.now_s += 1.0  # lost again soon: the other has the room now, for long
        supervisor.look()
        clock.now_s += LIVED_S
        resumes.end()
        update_run(store, other, status="finished", result={"eval_loss": 1.0})
        supervisor.look()
        assert resumes.names == [run_id, other, run_id]
        resumes.end()
        clock.now_s += RESTS_S[1]
        supervisor.look()
        assert len(resumes.names) == 3, "it was lost soon twice in a row"
        clock.now_s += RESTS_S[2] - RESTS_S[1]
        supervisor.look()
        assert resumes.names[3:] == [run_id]


def test_what_cannot_be_begun_or_is_deleted_meanwhile_ends_no_supervisor(
    store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(name: str, folder: Path | None) -> subprocess.Popen[bytes]:
        raise OSError("no room")

    Supervisor(store, refuse, MAX_CONCURRENT).look()
    assert f"{run_id} was not resumed: no room" in caplog.text
    with supervised(store) as (supervisor, resumes):
        keys = store.keys("runs")
        store.delete(keys[0])
        monkeypatch.setattr(type(store), "keys", lambda *_: keys)
        supervisor.look()
        assert resumes.names == []


def test_a_store_that_does_not_answer_is_asked_again(
    store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with supervised(store) as (supervisor, resumes):
        with monkeypatch.context() as patch:

            def mute(*_: object) -> None:
                raise StoreError("no answer")

            patch.setattr(type(store), "keys", mute)
            supervisor.look()
        assert "not all that is lost was resumed: no answer" in caplog.text
        supervisor.look()
        assert resumes.names == [run_id]
