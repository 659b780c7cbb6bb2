"""Stands for pip-audit: says and does what files of a folder tell it for the source that it is asked about.

``<source>.out`` goes to stdout, ``<source>.err`` to stderr, ``<source>.hang`` makes it wait. Started by test_audit.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

folder, asked = Path(sys.argv[1]), sys.argv[2:]
[source] = [word.removeprefix("--vulnerability-service=") for word in asked if word.startswith("--vulnerability")]
with (folder / "asked").open("a") as file:
    file.write(f"{source}\n")
if (folder / f"{source}.hang").exists():
    time.sleep(60)
for ending, stream in (("out", sys.stdout), ("err", sys.stderr)):
    if (folder / f"{source}.{ending}").exists():
        stream.write((folder / f"{source}.{ending}").read_text())
sys.exit((folder / f"{source}.err").exists())
