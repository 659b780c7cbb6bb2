"""A spec enters, what it minimises leaves. Called by the builder of a run."""

from __future__ import annotations

from raylora.objectives.objective import Objective
from raylora.objectives.preference import Preference
from raylora.objectives.supervised import Supervised
from raylora.spec.train import TrainFields


def objective_of(spec: TrainFields) -> Objective:
    """Return what a run minimises; `rl` and `rl_beta` count."""
    return Supervised() if spec.rl is None else Preference(spec.rl, spec.rl_beta)
