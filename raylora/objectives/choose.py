"""A spec enters; what it minimises, and what is read out of the model for it, leave. Called by the builder of a run."""

from __future__ import annotations

from transformers import PreTrainedModel

from raylora.objectives.classification import Classification
from raylora.objectives.head_scores import HeadScores
from raylora.objectives.kto import Kto
from raylora.objectives.objective import Objective
from raylora.objectives.preference import Preference
from raylora.objectives.readout import Readout
from raylora.objectives.reward import Reward
from raylora.objectives.supervised import Supervised
from raylora.objectives.token_losses import TokenLosses
from raylora.spec.fields.run import RunFields
from raylora.spec.fields.task import TaskFields


def objective_of(spec: RunFields) -> Objective:
    """Return what a run minimises; `task_type`, `labels`, `rl`, `rl_beta` and KTO's weights count."""
    if spec.rl == "reward":
        return Reward()
    if spec.has_head:
        return Classification(spec.num_labels)
    if spec.rl is None:
        return Supervised()
    if spec.rl == "kto":
        return Kto(spec.rl_beta, spec.kto_desirable_weight, spec.kto_undesirable_weight)
    return Preference(spec.rl, spec.rl_beta)


def readout_of(task: TaskFields, model: PreTrainedModel) -> Readout:
    """Return what reads a model's forward pass out.

    Args:
        task: What the model is for.
        model: Made for it; changed in place.
    """
    return HeadScores(model) if task.has_head else TokenLosses(model)
