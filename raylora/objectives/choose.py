"""A spec enters, what it minimises leaves. Called by the builder of a run."""

from __future__ import annotations

from raylora.objectives.kto import Kto
from raylora.objectives.objective import Objective
from raylora.objectives.preference import Preference
from raylora.objectives.supervised import Supervised
from raylora.spec.train import TrainFields


def objective_of(spec: TrainFields) -> Objective:
    """Return what a run minimises; `rl`, `rl_beta` and KTO's weights count."""
    if spec.rl is None:
        return Supervised()
    if spec.rl == "kto":
        return Kto(spec.rl_beta, spec.kto_desirable_weight, spec.kto_undesirable_weight)
    return Preference(spec.rl, spec.rl_beta)
