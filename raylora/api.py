"""What programs may lean on: the same calls as the command line's, with values instead of tables."""

from __future__ import annotations

from raylora.runtime.launch import resume, train
from raylora.runtime.look import estimate, inspect
from raylora.runtime.preflight import preflight
from raylora.spec.reading.load import load_spec
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.load import load_sweep
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.runs import list_runs
from raylora.sweep.launch import resume_sweep, sweep

__all__ = [
    "RunSpec",
    "SweepSpec",
    "estimate",
    "inspect",
    "list_runs",
    "load_spec",
    "load_sweep",
    "preflight",
    "resume",
    "resume_sweep",
    "sweep",
    "train",
]
