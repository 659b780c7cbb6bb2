"""What can be told of a run from its base's config.json alone: the memory it needs, and the layers it adapts.

A spec enters, predictions leave; no weights are read and nothing is started. Called by the command line and `api`.
"""

from __future__ import annotations

import torch

from raylora.model.base.meta import meta_model
from raylora.model.inspect import Inspection, inspect_targets
from raylora.model.source.source import base_config
from raylora.spec.run import RunSpec
from raylora.store.before_start import before_start
from raylora.train.prediction.estimate import Estimate
from raylora.train.prediction.estimate import estimate as predict


def estimate(spec: RunSpec) -> Estimate:
    """Predict trainable parameters and bytes on each rank.

    Args:
        spec: The run.

    Raises:
        InputError: The base's config cannot be read from storage.
        ModelError: There is no such base, the targets match nothing, or its forward pass cannot be followed.
    """
    with before_start():
        config = base_config(spec)
    return predict(spec, config)


def inspect(spec: RunSpec) -> Inspection:
    """Show the linear layers of the base, and which of them get an adapter.

    Args:
        spec: The run.

    Returns:
        The layers, and what is wrong with the targets: a wrong pattern still shows what there is.

    Raises:
        InputError: The base's config cannot be read from storage.
        ModelError: There is no such base.
    """
    with before_start():
        config = base_config(spec)
    return inspect_targets(meta_model(config, torch.float32, spec), spec)
