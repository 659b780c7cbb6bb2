"""The machine and the versions that a result was measured with."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "transformers", "bitsandbytes", "peft", "trl", "accelerate", "deepspeed", "ray", "mlflow")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """CPU, memory, versions, date and how busy the machine was in the minute before."""
    cpu = _cpu()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu["model name"],
        "cpu_flags": [flag for flag in FLAGS if flag in cpu["flags"].split()],
        "cores": os.cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _cpu() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {"model name": platform.processor() or platform.machine(), "flags": ""}
    pairs = (line.partition(":") for line in info.read_text().split("\n\n")[0].splitlines())
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    # Arm's kernels name neither.
    return {"model name": platform.machine(), "flags": ""} | facts
