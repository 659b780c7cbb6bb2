"""Known vulnerabilities of what is installed, by pip-audit; where its sources cannot be reached, that is said.

`make audit` starts it. Ends with 0 where nothing is known, 1 where something is, 3 where nobody could be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SOURCES = ("osv", "pypi")
TIMEOUT_S = 600


def main() -> int:
    """Ask one source after the other."""
    for source in SOURCES:
        words = ["--local", "--skip-editable", "--progress-spinner=off", "--timeout=15", "--format=json"]
        asked = subprocess.run(
            [sys.executable, "-m", "pip_audit", *words, f"--vulnerability-service={source}"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        if asked.stdout.strip():
            return _told(source, json.loads(asked.stdout)["dependencies"])
        reason = (asked.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"audit: {source} cannot be asked: {reason[:300]}")
    print("audit: NOT DONE, no source of known vulnerabilities can be reached from here")
    return 3


def _told(source: str, packages: list[dict[str, Any]]) -> int:
    found = [(each["name"], each["version"], vuln) for each in packages for vuln in each.get("vulns", [])]
    for name, version, vuln in found:
        fixed = ", ".join(vuln["fix_versions"]) or "no version yet"
        print(f"{name} {version}: {vuln['id']}, mended in {fixed}")
    skipped = sum("skip_reason" in each for each in packages)
    print(f"audit: {len(packages) - skipped} packages looked up at {source}, {len(found)} known vulnerabilities")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
