"""Benchmarks still run: on tiny models, with one turn, and nothing written into the project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.ray import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

QUICK = "packing"
"""`slots` runs what it does; the others start more processes, whole sweeps or the demo itself, for minutes."""


def written() -> dict[Path, int]:
    """What benchmarks may write where somebody measures, with the time of the last writing."""
    places = (REPOSITORY / "docs", REPOSITORY / "benchmarks" / "results")
    return {path: path.stat().st_mtime_ns for place in places for path in place.rglob("*")}


def test_it_runs(shared_cache: Path, tmp_path: Path):
    (tmp_path / "cache").symlink_to(shared_cache)
    before = written()
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", QUICK, "--try", "--turns", "1"],
        cwd=REPOSITORY,
        env=os.environ | {"RAYLORA_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    titles = re.findall("^## (.*)", ended.stdout, re.MULTILINE)
    assert titles[0] == "Goals" and len(titles) == 2, "the section of this benchmark"
    assert written() == before
