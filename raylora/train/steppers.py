"""What updates a slot: the strategy's stepper, each rank's own, or GaLore's. Called where a slot is filled."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import nn
from transformers import PreTrainedModel

from raylora.errors import InputError
from raylora.model.targets import match_targets
from raylora.spec.fields.train import TrainFields
from raylora.spec.run import RunSpec
from raylora.strategy.contract import Stepper, Strategy
from raylora.strategy.flat import FlatStepper
from raylora.train.optim import AdamWFactory, rates_of


def stepper_of(
    spec: RunSpec,
    model: PreTrainedModel,
    parameters: Mapping[str, nn.Parameter],
    device: torch.device,
    strategy: Strategy | None,
) -> Stepper:
    """Make what updates a run's parameters.

    Args:
        spec: The run.
        model: Its base.
        parameters: What trains, by name.
        device: This rank's.
        strategy: What sums over the ranks that share the run; ``None`` where this rank has it for itself.

    Raises:
        InputError: The optimizer's library is not installed.
    """
    if spec.optimizer == "galore_adamw":
        check_installed(spec)
        from raylora.train.galore import GaloreStepper  # the library is an extra

        return GaloreStepper(spec, parameters, projected_names(model, spec))
    make = AdamWFactory(spec, device)
    step = FlatStepper if strategy is None else strategy.stepper
    return step(parameters, make, spec.max_grad_norm, rates_of(spec, parameters))


def projected_names(model: PreTrainedModel, spec: RunSpec) -> list[str]:
    """Weights whose gradients GaLore projects: those of all linear layers but the output head, stored either way round.

    Args:
        model: The base.
        spec: The run.
    """
    return [f"{layer}.weight" for layer in match_targets(model, spec)]


def check_installed(spec: TrainFields) -> None:
    """Find out that the optimizer can be made.

    Args:
        spec: `optimizer` counts.

    Raises:
        InputError: Its library is not installed.
    """
    if spec.optimizer == "galore_adamw" and find_spec("galore_torch") is None:
        raise InputError(
            "optimizer: galore_adamw needs the package galore_torch; run pip install 'raylora[galore]' on every node, "
            "or use optimizer: adamw_torch"
        )
