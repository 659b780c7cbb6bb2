"""Known vulnerabilities of what is installed, by pip-audit; where its sources cannot be reached, that is said.

`make audit` starts it. Ends with 0 where nothing is known, 1 where something is, 3 where nothing could be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
SOURCES = ("osv", "pypi")
WORDS = ("--local", "--skip-editable", "--progress-spinner=off", "--timeout=15", "--format=json")
TIMEOUT_S = 600
NOTHING_KNOWN, SOMETHING_KNOWN, NOT_DONE = 0, 1, 3


class Unanswered(Exception):
    """Why a program did not do what it was started for, in a line."""


def main() -> int:
    """Install pip-audit beside the pinned packages, and ask it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(CONSTRAINTS)]
    return audit([*pip, "pip-audit"], [sys.executable, "-m", "pip_audit"], TIMEOUT_S)


def audit(install: Sequence[str], program: Sequence[str], timeout_s: float) -> int:
    """Ask one source after the other, until one has looked up at least one package."""
    try:
        _run(install, timeout_s, is_done=lambda ended: ended.returncode == 0)
    except Unanswered as error:
        return _not_done(f"pip-audit cannot be installed: {error}")
    for source in SOURCES:
        try:
            packages = _packages(program, source, timeout_s)
        except Unanswered as error:
            print(f"audit: {source} cannot be asked: {error}")
        else:
            return _told(source, packages)
    return _not_done("no source of known vulnerabilities answered")


def _packages(program: Sequence[str], source: str, timeout_s: float) -> list[dict[str, Any]]:
    """What pip-audit says of each package; it ends with 1 where it found something, and where it failed."""
    command = [*program, *WORDS, f"--vulnerability-service={source}"]
    output = _run(command, timeout_s, is_done=lambda ended: bool(ended.stdout.strip()))
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
        looked_up = [each["name"] for each in packages if "skip_reason" not in each]
    except (ValueError, KeyError, TypeError) as error:
        raise Unanswered(f"its answer is none of pip-audit's: {output.strip()[:200]!r}") from error
    if not looked_up:
        raise Unanswered(f"it looked up none of {len(packages)} packages")
    return packages


def _run(command: Sequence[str], timeout_s: float, is_done: Callable[[subprocess.CompletedProcess[str]], bool]) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise Unanswered(f"no answer within {timeout_s:g} s") from error
    if not is_done(ended):
        raise Unanswered((ended.stderr.strip().splitlines() or ["no answer"])[-1][:300])
    return ended.stdout


def _told(source: str, packages: list[dict[str, Any]]) -> int:
    skipped = [each for each in packages if "skip_reason" in each]
    found = [(each["name"], each["version"], vuln) for each in packages for vuln in each.get("vulns", [])]
    for each in skipped:
        print(f"{each['name']}: not looked up: {each['skip_reason']}")
    for name, version, vuln in found:
        fixed = ", ".join(vuln["fix_versions"]) or "no version yet"
        print(f"{name} {version}: {vuln['id']}, mended in {fixed}")
    num_looked_up = len(packages) - len(skipped)
    print(f"audit: {num_looked_up} packages looked up at {source}, {len(found)} known vulnerabilities")
    return SOMETHING_KNOWN if found else NOTHING_KNOWN


def _not_done(reason: str) -> int:
    print(f"audit: NOT DONE, {reason}")
    return NOT_DONE


if __name__ == "__main__":
    sys.exit(main())
