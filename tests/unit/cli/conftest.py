"""The command line in this process: its words in, its exit code and what it printed out."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylora.cli.app import main
from raylora.cli.output import BAR_VARIABLES, err, out
from tests.unit.train.tiny_run import save_materials


@dataclass(frozen=True)
class Told:
    """What a command told.

    Args:
        code: Exit code.
        out: Standard output.
        err: Standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object on one line and nothing else."""
        (line,) = self.out.splitlines()
        value = json.loads(line)
        assert isinstance(value, dict)
        return value


Raylora = Callable[..., Told]


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base and rows; never written to."""
    return save_materials(tmp_path_factory.mktemp("materials"), 40)


@pytest.fixture
def run_yaml(materials: Path, tmp_path: Path) -> Path:
    """The configuration of a run that is right."""
    values = {
        "base_model": str(materials / "base"),
        "datasets": [{"path": str(materials / "rows.jsonl")}],
        "val_set_size": 8,
        "sequence_len": 128,
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def raylora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Raylora]:
    """Run the command line with an empty home."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    # No COLUMNS: `datasets` puts a copy of the environment in its place, and the consoles go on with the one before.
    for console in (out, err):
        monkeypatch.setattr(console, "width", 200)
    for name in BAR_VARIABLES:
        monkeypatch.setenv(name, "1")  # as the command would, and undone for what comes after
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["raylora", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Told(int(ended.value.code or 0), *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)
