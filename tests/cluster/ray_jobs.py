"""The command as a job of Ray's own job server, which stops it: SIGTERM, and SIGKILL after a while."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.command import LONG_S, Command, wait_until
from tests.cluster.prefork import PROGRAM
from tests.conftest import served
from tests.servers.ray import TOKEN, RayHead

GRACE_S = 30
"""As Kubernetes has it; Ray's own three seconds are not enough on a machine that is busy."""

OF_NODES = {
    "HF_TOKEN": "hf-token-of-nodes-nobody-may-print",
    "AWS_SECRET_ACCESS_KEY": "s3-key-of-nodes-nobody-may-print",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-password-of-nodes-nobody-may-print",
}
"""Secrets that every process of the cluster is started with, as by a Secret of Kubernetes: jobs have them."""


@pytest.fixture
def job_head(tmp_path: Path) -> Iterator[RayHead]:
    """A cluster that takes jobs."""
    grace = {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S)}
    yield from served(RayHead(tmp_path, env=grace | OF_NODES, takes_jobs=True))


class Job:
    """A command that such a cluster runs.

    Args:
        head: The cluster.
        command: Whose folder and home it has.
        name: Of the job.
        words: Behind `raylora`.
    """

    def __init__(self, head: RayHead, command: Command, name: str, *words: str) -> None:
        self._url = head.jobs + name
        self._log = log_of(head, name)
        program = shlex.join([sys.executable, "-c", PROGRAM, *words])
        line = f"cd {command.folder} && RAYLORA_HOME={command.home} exec {program}"
        ask(head.jobs, {"entrypoint": line, "submission_id": name})

    @property
    def said(self) -> str:
        """All that it printed so far."""
        return self._log.read_text() if self._log.exists() else ""

    def stop(self) -> None:
        """Have it stopped, and wait until it is."""
        assert ask(f"{self._url}/stop", {})["stopped"]
        wait_until(lambda: ask(self._url)["status"] == "STOPPED", 2 * GRACE_S)


def ask(url: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the job server, or tell it something."""
    words = {"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}", "Content-Type": "application/json"}
    data = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, words), timeout=60) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def submit(head: RayHead, name: str, words: Sequence[str]) -> str:
    """Have a cluster run a command as KubeRay has it, from the host of its head; returns what it printed to its end.

    Args:
        head: The cluster.
        name: Of the job.
        words: The command, with the environment of the cluster.
    """
    ray = Path(sysconfig.get_path("scripts")) / "ray"
    asked = (f"--address={head.jobs.removesuffix('/api/jobs/')}", f"--submission-id={name}", "--", *words)
    command = [*head.door, sys.executable, str(ray), "job", "submit", *asked]
    ended = subprocess.run(command, env=os.environ | TOKEN, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return log_of(head, name).read_text()


def log_of(head: RayHead, name: str) -> Path:
    """Where a cluster keeps what a job prints."""
    return head.session / "session_latest" / "logs" / f"job-driver-{name}.log"
