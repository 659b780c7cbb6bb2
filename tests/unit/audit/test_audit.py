"""What `make audit` says and ends with, whatever pip and pip-audit answer; a small program stands for both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.audit import audit

STUB = Path(__file__).parent / "stub_pip_audit.py"
INSTALLED = [sys.executable, "-c", ""]
SOUND = {"name": "sound", "version": "1", "vulns": []}
WEAK = {"name": "weak", "version": "2", "vulns": [{"id": "GHSA-1", "fix_versions": ["2.1", "3"]}]}
OPEN = {"name": "open", "version": "3", "vulns": [{"id": "GHSA-2", "fix_versions": []}]}
SKIPPED = {"name": "local-build", "skip_reason": "not on the index"}
NOT_DONE = "audit: NOT DONE, no source of known vulnerabilities answered\n"


def answer(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def asked(folder: Path, timeout_s: float = 60, **files: str) -> int:
    """Run the audit with what the stub is to answer, such as ``osv_out``."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return audit(INSTALLED, [sys.executable, str(STUB), str(folder)], timeout_s)


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([SOUND], 0, ["audit: 1 packages looked up at osv, 0 known vulnerabilities"]),
        (
            [SOUND, WEAK, OPEN],
            1,
            [
                "weak 2: GHSA-1, mended in 2.1, 3",
                "open 3: GHSA-2, mended in no version yet",
                "audit: 3 packages looked up at osv, 2 known vulnerabilities",
            ],
        ),
        (
            [SOUND, SKIPPED],
            0,
            [
                "local-build: not looked up: not on the index",
                "audit: 1 packages looked up at osv, 0 known vulnerabilities",
            ],
        ),
    ],
    ids=["nothing", "something", "skipped"],
)
def test_what_is_known_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    packages: list[dict[str, object]],
    code: int,
    said: list[str],
):
    assert asked(tmp_path, osv_out=answer(*packages)) == code
    assert capsys.readouterr().out.splitlines() == said
    assert (tmp_path / "asked").read_text() == "osv\n"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"osv_err": "one line\nConnectionError: nobody there\n"}, "ConnectionError: nobody there"),
        ({"osv_out": "<html>Sign in</html>"}, "its answer is none of pip-audit's: '<html>Sign in</html>'"),
        ({"osv_out": "[]"}, "its answer is none of pip-audit's: '[]'"),
        ({"osv_out": "{}"}, "its answer is none of pip-audit's: '{}'"),
        ({"osv_out": answer(SKIPPED)}, "it looked up none of 1 packages"),
        ({"osv_out": answer()}, "it looked up none of 0 packages"),
        ({}, "no answer"),
    ],
    ids=["unreachable", "not JSON", "a list", "another object", "all skipped", "empty", "silent"],
)
def test_the_next_source_is_asked_and_without_one_it_is_not_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], reason: str
):
    assert asked(tmp_path, **files) == 3
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"audit: osv cannot be asked: {reason}"
    assert out.endswith(NOT_DONE)
    assert (tmp_path / "asked").read_text() == "osv\npypi\n"
    assert asked(tmp_path, **files, pypi_out=answer(SOUND)) == 0
    assert capsys.readouterr().out.endswith("audit: 1 packages looked up at pypi, 0 known vulnerabilities\n")


@pytest.mark.slow
def test_a_source_that_never_answers_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert asked(tmp_path, timeout_s=2, osv_hang="", pypi_hang="") == 3
    assert capsys.readouterr().out == (
        "audit: osv cannot be asked: no answer within 2 s\n"
        f"audit: pypi cannot be asked: no answer within 2 s\n{NOT_DONE}"
    )


def test_where_nothing_can_be_installed_it_is_not_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pip = [sys.executable, "-c", "import sys; sys.exit('WARNING: retrying\\nERROR: no matching distribution')"]
    assert audit(pip, [sys.executable, str(STUB), str(tmp_path)], 60) == 3
    assert capsys.readouterr().out == (
        "audit: NOT DONE, pip-audit cannot be installed: ERROR: no matching distribution\n"
    )
    assert not (tmp_path / "asked").exists()
