"""What `make demo` does once all is installed: the command on its own configuration, in an empty home, to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.rows import DATA, Material
from benchmarks.turns import REPOSITORY
from raylora.model.base.dtype import cpu_has_bf16

CONFIG = REPOSITORY / "examples" / "quickstart.yaml"
GOALS = {"wall_s": 360.0, "loss_falls_by": 0.25}
LIMIT_S = 1200
MOST_TURNS = 1
"""It ends on its own and is run once."""
TOLD = ("eval_loss_before", "eval_loss", "tokens_per_s", "tokens", "trainable_parameters", "base_bytes_per_rank")


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Run it once as it stands, and once in float32.

    Args:
        material: Only its folder is used: the base is the demo's own.
        num_turns: One.
    """
    del num_turns
    assert DATA.exists()  # the conductor has made it
    chosen = "bfloat16" if cpu_has_bf16() else "float32"
    dtypes = dict.fromkeys((chosen, "float32"))
    return {"goals": GOALS, "runs": {dtype: _run(material.folder / f"home-{dtype}", dtype) for dtype in dtypes}}


def _run(home: Path, dtype: str) -> dict[str, Any]:
    env = os.environ | {"RAYLORA_HOME": str(home)}
    env.pop("OMP_NUM_THREADS", None)  # the conductor's own
    words = ["train", str(CONFIG), "--json", "--set", f"dtype={dtype}"]
    command = [sys.executable, "-c", "from raylora.cli.app import main; main()", *words]
    start = perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, check=True, timeout=LIMIT_S)
    wall_s, told = perf_counter() - start, json.loads(done.stdout)
    return {
        "wall_s": wall_s,
        "loss_falls_by": 1 - told["eval_loss"] / told["eval_loss_before"],
        **{name: told[name] for name in TOLD},
    }
