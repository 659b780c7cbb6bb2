"""Progress bars of libraries: not where nobody watches them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raylora.cli.output import BAR_VARIABLES
from tests.unit.cli.terminal import written_to_terminal
from tests.unit.model.tiny import write_gguf

pytestmark = pytest.mark.slow

BAR = "%|"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command that converts a GGUF file, over which transformers draws bars."""
    write_gguf(tmp_path / "base.gguf", {})
    (tmp_path / "rows.jsonl").write_text('{"text": "hello"}\n')
    (tmp_path / "run.yaml").write_text("base_model: base.gguf\ndatasets: [{path: rows.jsonl, type: text}]\n")
    return [sys.executable, "-c", "from raylora.cli.app import main; main()", "validate", "run.yaml"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in BAR_VARIABLES}
    return {**kept, "RAYLORA_HOME": str(tmp_path / "home"), "TERM": "xterm"}


def test_a_pipe_gets_no_bars(words: list[str], env: dict[str, str], tmp_path: Path):
    told = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    assert "made" in told.stderr
    assert BAR not in told.stderr


def test_a_terminal_gets_them(words: list[str], env: dict[str, str], tmp_path: Path):
    code, written = written_to_terminal(words, tmp_path, env)
    assert code == 0, written
    assert BAR in written
