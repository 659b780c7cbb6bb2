"""Time from the command to the first step of a two-worker NF4 run under Ray, split by part, from a warm cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.rows import BASE_MODEL, DATA, Material
from benchmarks.summaries import summary
from benchmarks.turns import REPOSITORY

LIMIT_S = 600
MOST_TURNS = 5
"""Starts that count, after one that warms the cache."""


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Start the same run again and again.

    Args:
        material: Its base is used; the rows are read from the data's own file.
        num_turns: Starts that count.
    """
    fields = {
        "base_model": BASE_MODEL if material.name.startswith("SmolLM2") else str(material.base),
        "load_in_4bit": True,
        "datasets": [{"path": str(DATA)}],
        "sequence_len": 128,
        "micro_batch_size": 2,
        "max_steps": 1,
        "distributed": {"strategy": "fsdp", "num_workers": 2},
    }
    config = material.folder / "start.yaml"
    config.write_text(json.dumps(fields))  # JSON is YAML
    runs = [start_once(config, material.folder) for _ in range(1 + num_turns)][1:]
    names = list(dict.fromkeys(name for run in runs for name in run["parts_s"]))
    return {
        "to_first_step_s": summary([run["to_first_step_s"] for run in runs]),
        "parts_s": {name: summary([run["parts_s"].get(name, 0.0) for run in runs]) for name in names},
    }


def start_once(config: Path, folder: Path) -> dict[str, Any]:
    """Run `raylora train` to its end, watched.

    Args:
        config: Of the run.
        folder: Where it may write.

    Returns:
        Seconds to the first step, whole and by part.
    """
    marks_file = folder / "marks.json"
    started_at = time.time()
    env = os.environ | {"RAYLORA_BENCHMARK_MARKS": str(marks_file), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.start_driver", "train", str(config), "--json"]
    subprocess.run(command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, check=True, timeout=LIMIT_S)
    marks: dict[str, Any] = json.loads(marks_file.read_text())
    parts = {"driver: Python and command line": marks["command line"] - started_at}
    parts |= {f"driver: {name}": seconds for name, seconds in marks["driver_s"].items()}
    parts |= {f"worker: {name}": seconds for name, seconds in marks["worker_s"].items()}
    total = marks["start"] - started_at
    print(f"to the first step: {total:.1f} s", file=sys.stderr, flush=True)
    return {"to_first_step_s": total, "parts_s": parts}
