"""Runs that cannot be: exit code 2 before anything is trained, and nothing left on disk or in the cluster."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster.command import Command, wait_until
from tests.cluster.refused import ONE_WORKER, SOON_S, refused
from tests.servers.lacking import PRIVILEGE, lacking
from tests.servers.ray import RayHead
from tests.servers.s3 import SECRET, S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_more_workers_than_the_cluster_can_hold(newcomer: Command):
    ended = newcomer.run("train", "run.yaml", "--json", "--set", "distributed.num_workers=99", timeout_s=SOON_S)
    message = refused(newcomer, ended)
    assert "99 workers" in message
    assert "can hold 2" in message


def test_a_failed_check_leaves_the_cluster_as_it_was(newcomer: Command, ray_head: RayHead):
    before = ray_head.census()
    gone = ("--set", "datasets.0.path=gone.jsonl")
    ended = newcomer.run("train", "run.yaml", "--json", *ONE_WORKER, *gone, timeout_s=SOON_S)
    assert "gone.jsonl" in refused(newcomer, ended)
    wait_until(lambda: ray_head.census() == before, 60)
    assert before == {"actors": [], "groups": []}, "and no earlier run has left anything either"


def test_a_failed_check_ends_the_ray_it_started(workplace: Path, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"messages": \n')
    command = Command(workplace, tmp_path / "home")
    ended = command.run(
        "train", "run.yaml", "--json", *ONE_WORKER, "--set", f"datasets.0.path={tmp_path / 'rows.jsonl'}"
    )
    assert "rows.jsonl, line 1" in refused(command, ended)


def test_a_store_that_cannot_be_written(newcomer: Command, tmp_path: Path):
    (tmp_path / "file").touch()
    asked = f"storage.uri={tmp_path}/file/store"
    message = refused(
        newcomer, newcomer.run("train", "run.yaml", "--json", *ONE_WORKER, "--set", asked, timeout_s=SOON_S)
    )
    assert "storage.uri" in message


def test_an_address_where_nothing_answers(workplace: Path, tmp_path: Path):
    command = Command(workplace, tmp_path / "home", {"RAY_ADDRESS": "127.0.0.1:1"})
    message = refused(command, command.run("train", "run.yaml", "--json", timeout_s=SOON_S))
    assert "no Ray cluster answers at 127.0.0.1:1" in message


@pytest.fixture
def hermit(workplace: Path, tmp_path: Path) -> Command:
    """The command on a machine where it sees no process of others: Ray looks for clusters among them."""
    door = ("unshare", "--pid", "--fork", "--mount-proc")
    if shutil.which("unshare") is None or subprocess.run([*door, "true"], capture_output=True, check=False).returncode:
        lacking("this user may not make process namespaces with `unshare`", PRIVILEGE)
    return Command(workplace, tmp_path / "home", {"RAY_TMPDIR": str(tmp_path)}, door)


@pytest.mark.parametrize("left", [None, "127.0.0.1:1"], ids=["no trace of one", "one that was killed"])
def test_no_cluster_on_this_machine(hermit: Command, tmp_path: Path, left: str | None):
    if left:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(left)
    ended = hermit.run("train", "run.yaml", "--json", "--set", "ray.address=auto", timeout_s=SOON_S)
    assert "ray.address: no Ray cluster answers at auto; start one" in refused(hermit, ended)


def test_auto_means_the_shells_cluster_where_it_names_one(workplace: Path, tmp_path: Path):
    command = Command(workplace, tmp_path / "home", {"RAY_ADDRESS": "127.0.0.1:1"})
    message = refused(
        command, command.run("train", "run.yaml", "--json", "--set", "ray.address=auto", timeout_s=SOON_S)
    )
    assert "no Ray cluster answers at 127.0.0.1:1" in message


def test_an_mlflow_that_does_not_answer_leaves_no_run(newcomer: Command):
    ended = newcomer.run(
        "train", "run.yaml", "--json", *ONE_WORKER, "--set", "tracking.uri=http://127.0.0.1:1", timeout_s=SOON_S
    )
    assert ended.code == 1
    assert "MLflow at http://127.0.0.1:1 does not answer" in ended.error
    assert {path.name for path in newcomer.home.iterdir()} == {"cache"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-key-nobody-may-print"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "reader"}, "forbids"),
    ],
)
def test_a_bucket_that_refuses_the_key(
    workplace: Path, tmp_path: Path, s3_server: S3Server, changed: dict[str, str], words: str
):
    command = Command(workplace, tmp_path / "home", {**s3_server.env, **changed})
    ended = command.run("validate", "run.yaml", "--json", "--set", f"storage.uri={s3_server.uri('store')}")
    assert words in refused(command, ended)
    for secret in (SECRET, "wrong-key-nobody-may-print"):
        assert secret not in ended.out + ended.err
