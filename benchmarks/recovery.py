"""How long a run takes to recover from a worker that is killed and from one that is stopped, split by part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.rows import DATA, Material
from benchmarks.summaries import summary
from benchmarks.turns import REPOSITORY
from raylora.store.home import cache_dir

LIMIT_S = 600
MOST_TURNS = 3
"""Runs, each with both faults: they take two minutes."""
MOST_STEPS = 200
"""A run is stopped far earlier; those of a tiny model are fast."""
SILENCE_S = 10
"""What `distributed.worker_timeout_s` is set to."""
PARTS = {
    "noticed": "until the controller notices",
    "ended": "the old workers are ended",
    "started": "new ones start and meet",
    "wait for the driver's checks": "they import",
    "place": "they read, quantize and place the base",
    "start": "they check it and read the checkpoint",
    "step": "the first step",
    "back": "the other steps that had been done",
}
"""By the moment that each ends with, in their order; the first begins with the fault."""
SPANS = {"ended_s": ("fault", "ended"), "again_s": ("ended", "step"), "back_s": ("fault", "back")}
"""What users wait for, by its first and its last moment."""


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Let the same run be struck again and again.

    Args:
        material: Its base is used; the rows are read from the data's own file.
        num_turns: Runs.
    """
    fields = {
        "base_model": str(material.base),
        "load_in_4bit": True,
        "datasets": [{"path": str(DATA)}],
        "sequence_len": 128,
        "micro_batch_size": 1,
        "max_steps": MOST_STEPS,
        "save_steps": 4,
        "distributed": {"strategy": "fsdp", "num_workers": 2, "max_failures": 2, "worker_timeout_s": SILENCE_S},
    }
    config, home = material.folder / "recovery.json", material.folder / "recovery-home"
    config.write_text(json.dumps(fields))
    home.mkdir()
    (home / "cache").symlink_to(cache_dir())  # what the run leaves is nobody's, what it reads is warm
    runs = [_run(config, home) for _ in range(num_turns)]
    return {
        "worker_timeout_s": SILENCE_S,
        "faults": {fault: summaries([run[fault] for run in runs]) for fault in runs[0]},
    }


def _run(config: Path, home: Path) -> dict[str, Any]:
    found = home / "found.json"
    env = os.environ | {"RAYLORA_HOME": str(home), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.recovery_driver", str(config), str(found)]
    subprocess.run(command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, check=True, timeout=LIMIT_S)
    told: dict[str, Any] = json.loads(found.read_text())
    for fault, recovery in told.items():
        took_s = recovery["moments"]["back"] - recovery["moments"]["fault"]
        print(f"a worker {fault}: where it was after {took_s:.1f} s", file=sys.stderr, flush=True)
    return told


def summaries(recoveries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians and ranges of what followed one kind of fault.

    Args:
        recoveries: Of each run, the Unix time of each moment and the steps that were done twice.
    """
    moments = [recovery["moments"] for recovery in recoveries]
    parts = {PARTS[last]: (first, last) for first, last in pairwise(("fault", *PARTS))}
    return {
        "steps_again": summary([recovery["steps_again"] for recovery in recoveries]),
        "parts_s": {part: _between(moments, *ends) for part, ends in parts.items()},
        **{name: _between(moments, *ends) for name, ends in SPANS.items()},
    }


def _between(moments: Sequence[Mapping[str, float]], first: str, last: str) -> dict[str, float]:
    return summary([at[last] - at[first] for at in moments])
