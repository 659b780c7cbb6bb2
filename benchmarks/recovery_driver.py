"""A run that one fault strikes after the other, and that is stopped once it has recovered; started by `recovery.py`.

Its words: a file with the run's fields, and one for what was found.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.recovery_striker import Striker
from benchmarks.recovery_witness import Witness
from raylora.api import RunSpec, train
from raylora.errors import InterruptedRunError


def main() -> None:
    """Train until all faults have struck, and write down what followed each."""
    fields, found = map(Path, sys.argv[1:])
    group: Any = importlib.import_module("raylora.runtime.group")
    group.Introduction = Witness
    striker = Striker(lambda: signal.raise_signal(signal.SIGINT))
    try:
        with suppress(InterruptedRunError):
            train(RunSpec.model_validate(json.loads(fields.read_text())), striker.hear)
    finally:
        striker.leave()
    if striker.missed:
        sys.exit(f"the run ended before a worker was {' and '.join(striker.missed)} and replaced")
    found.write_text(json.dumps(striker.found))


if __name__ == "__main__":
    main()
