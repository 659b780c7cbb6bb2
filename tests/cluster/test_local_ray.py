"""A Ray that is started for one run: who lacks its token cannot talk to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.ray import REPOSITORY, asked

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

START = """
import sys

import ray

from raylora.runtime.cluster.cluster import cluster
from raylora.spec.run import RunSpec

with cluster(RunSpec(base_model="base", datasets=[{"path": "rows.jsonl"}])):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
WHO_IS_THERE = "print(len(state.node_table()))"


@pytest.fixture
def users_env(tmp_path: Path) -> dict[str, str]:
    """Of a user who has set nothing."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return env | {"HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def address(users_env: dict[str, str]) -> Iterator[str]:
    words = [sys.executable, "-c", START]
    with subprocess.Popen(words, env=users_env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        try:
            yield driver.stdout.readline().strip()
        finally:
            driver.communicate("")


def test_who_lacks_the_token_is_refused(address: str, users_env: dict[str, str]):
    assert asked(address, WHO_IS_THERE, users_env | {"RAY_AUTH_MODE": "token"}) == b"1\n"
    for stranger in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        with pytest.raises(subprocess.CalledProcessError):
            asked(address, WHO_IS_THERE, users_env | stranger)
