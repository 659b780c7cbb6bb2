"""Benchmarks still run: on tiny models, with one turn, and nothing written into the project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import packing
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


def test_what_waits_for_a_gpu_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A Llama of one layer, two slots."""
    case, out = packing.Case(rows=1, tokens=16, slots=2, goal=1.0), tmp_path / "found.json"
    monkeypatch.setattr(packing, "CASES", (case,))
    words = ["packing", "--device=cpu", "--layers=1", "--hidden=256", "--turns=1", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", words)
    packing.main()
    found = json.loads(out.read_text())
    assert found["results"]["cases"][case.name]["pack_s"]["median"] > 0
    assert packing.render(found) in capsys.readouterr().out
