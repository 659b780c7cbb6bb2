"""`raylora supervise` beside a run that loses its driver, cluster or machine, and a sweep that loses its controller."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raylora.spec.reading.load import load_spec
from raylora.store.blob import open_store
from raylora.store.fence import key_of
from raylora.store.lease import SILENT_S, Holder, is_deserted
from raylora.store.process import lives
from raylora.store.runs import list_runs, run_store
from raylora.store.sweeps import list_sweeps
from raylora.sweep.result import sweep_result
from tests.cluster.alone import came_to, told_of, trained_alone
from tests.cluster.command import Command, Running, overrides
from tests.cluster.made_sweeps import each_step_told_once, same_ends, undisturbed
from tests.cluster.stopped import wait_for_saves
from tests.cluster.undisturbed import client
from tests.servers.lacking import PRIVILEGE, lacking
from tests.servers.ray import RayHead

__all__ = ["undisturbed"]

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

SETTINGS = ("max_steps=60", "save_steps=2", "eval_steps=60", "distributed.num_workers=1")


@pytest.fixture
def supervisor(on_head: Command, ray_head: RayHead, tmp_path: Path) -> Iterator[Running]:
    """Watches over the command's own store from another folder, and has gone when the test ends."""
    ray_head.forget_workers()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    running = Command(elsewhere, on_head.home, ray_head.env).start("supervise", "--json")
    running.wait_for("watching")
    yield running
    with suppress(ProcessLookupError):
        os.kill(running.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("what", ["driver", "head node", "machine"])
def test_a_run_that_loses_its_driver_its_cluster_or_its_machine_goes_on(
    on_head: Command,
    supervisor: Running,
    workplace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
):
    """Where its cluster is gone, on that of the supervisor."""
    if what == "driver":
        first = on_head.start("train", "run.yaml", "--json", *overrides(*SETTINGS))
        first.wait_for("step 3/")
        os.kill(first.process.pid, signal.SIGKILL)
    elif what == "head node":
        first = without_its_cluster(workplace, on_head.home, tmp_path)
    else:
        first = without_its_machine(workplace, on_head.home)
    supervisor.wait_for("its driver or its cluster is gone")
    ended(supervisor)
    assert first.end().code not in (0, 2)
    (record,) = list_runs(open_store(str(on_head.home / "store")))
    assert record.status == "finished"
    assert record.result is not None
    log = (on_head.home / "logs" / f"{record.run_id}.log").read_text()
    assert "60 steps to do, 0 done" not in log
    monkeypatch.chdir(workplace)
    alone = trained_alone(load_spec(workplace / "run.yaml", SETTINGS).spec, tmp_path)
    came_to(alone, record.result)
    told_of(alone, client(on_head), str(record.mlflow_run_id))


def without_its_cluster(workplace: Path, home: Path, folder: Path) -> Running:
    """A run on a cluster of its own whose head node is killed."""
    doomed = RayHead(folder)
    doomed.start()
    try:
        command = Command(workplace, home, doomed.env)
        running = command.start("train", "run.yaml", "--json", *overrides(*SETTINGS))
        running.wait_for("step 3/")
    finally:
        doomed.stop(signal.SIGKILL)
    return running


def without_its_machine(workplace: Path, home: Path) -> Running:
    """A run on a machine of its own, of which nothing is left, as it is after five minutes of silence.

    What is another machine to raylora is one whose processes it cannot ask for. These minutes alone are not waited for:
    the last sign of life is made older by them.
    """
    door = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*door, "true"], capture_output=True, check=False).returncode:
        lacking("this user may not make process namespaces with `unshare`", PRIVILEGE)
    command = Command(workplace, home, door=door)
    running = command.start("train", "run.yaml", "--json", *overrides(*SETTINGS))
    running.wait_for("step 5/")
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait(30)
    store = open_store(str(home / "store"))
    (record,) = list_runs(store)
    own = run_store(store, record.run_id)
    last = Holder.model_validate_json(own.read(key_of(1)))
    assert last.beaten_at is not None and lives(last.process) is None
    assert not is_deserted(own), "nobody here can tell yet"
    long_ago = last.model_copy(update={"beaten_at": time.time() - SILENT_S - 1})
    own.write(key_of(1), long_ago.model_dump_json().encode())
    return running


def test_a_sweep_whose_controller_is_killed_goes_on(
    on_head: Command, ray_head: RayHead, supervisor: Running, undisturbed: dict[str, Any]
):
    store = open_store(str(on_head.home / "store"))
    first = on_head.start("sweep", "grid.yaml", "--json")
    wait_for_saves(first, store.uri)
    (controller,) = ray_head.processes_of("TrainController")
    controller.kill()
    assert first.end().code == 1
    supervisor.wait_for("its driver or its cluster is gone")
    ended(supervisor)
    (record,) = list_sweeps(store)
    assert record.status == "finished"
    same_ends(sweep_result(record), undisturbed)
    each_step_told_once(on_head, sweep_result(record))


def ended(supervisor: Running) -> None:
    """What it resumed has finished, and told to end it ends as one whose work is done."""
    supervisor.wait_for(": finished")
    os.kill(supervisor.process.pid, signal.SIGTERM)
    told = supervisor.end()
    assert told.code == 0, told.err
    assert told.json == {"at_work": {}}
    assert told.left_behind == ()
