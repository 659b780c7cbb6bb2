"""What a target pattern would match: the linear layers of a model as rows, layers of one kind as one row.

A model without weights and a spec enter; rows and problems leave, so that a wrong pattern still shows what there is.
Called by the runtime.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.head_seat import head_values
from raylora.model.targets import find_targets, layer_values, linear_layers, refuse
from raylora.spec.fields.run import RunFields


@dataclass(frozen=True)
class TargetRow:
    """Linear layers that differ only in their index.

    Args:
        pattern: Their dotted name with ``*`` for each index, such as ``model.layers.*.self_attn.q_proj``.
        shape: Output and input features.
        num_modules: How many there are.
        num_adapted: How many of them the spec's targets match.
        trainable_parameters: Of the adapters on those, at the spec's rank and of its kind.
    """

    pattern: str
    shape: tuple[int, int]
    num_modules: int
    num_adapted: int
    trainable_parameters: int


@dataclass(frozen=True)
class Inspection:
    """All linear layers of a model, and what is wrong with the targets.

    Args:
        rows: In the model's order.
        problems: A sentence each; empty where a run with these targets could start.
        num_beside: Values that train and are of no linear layer, such as those of norms.
    """

    rows: tuple[TargetRow, ...]
    problems: tuple[str, ...]
    num_beside: int = 0

    @property
    def trainable_parameters(self) -> int:
        """Values that a run with these targets trains."""
        return sum(row.trainable_parameters for row in self.rows) + self.num_beside

    def check(self) -> None:
        """Refuse targets that no run can start with, as a run would.

        Raises:
            ModelError: All problems at once.
        """
        refuse(self.problems)


def inspect_targets(model: PreTrainedModel, spec: RunFields) -> Inspection:
    """Show which linear layers of a model get an adapter.

    Args:
        model: The base; its parameters may be on the meta device.
        spec: `adapter`, `lora_target_modules`, `lora_r` and `use_dora` count, or `peft`, or `galore_rank`.
    """
    by_layer, problems = _values(model, spec)
    groups: dict[tuple[str, tuple[int, int]], list[str]] = defaultdict(list)
    for name, layer in linear_layers(model).items():
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        groups[pattern, (layer.out_features, layer.in_features)].append(name)
    rows = []
    for (pattern, shape), members in groups.items():
        adapted = [by_layer.pop(name) for name in members if name in by_layer]
        rows.append(TargetRow(pattern, shape, len(members), len(adapted), sum(adapted)))
    return Inspection(tuple(rows), tuple(problems), sum(by_layer.values()) + head_values(model))


def _values(model: PreTrainedModel, spec: RunFields) -> tuple[dict[str, int], list[str]]:
    """Values that train by layer, and what is wrong with the targets."""
    if spec.adapter == "full":
        return _by_module(model), find_targets(model, spec)[1]
    if spec.peft is None:
        names, problems = find_targets(model, spec)
        layers = linear_layers(model)
        shapes = {name: (layers[name].out_features, layers[name].in_features) for name in names}
        return {name: layer_values(spec, *shape) for name, shape in shapes.items()}, problems
    from raylora.model.bank.peft_trial import peft_trial  # seconds of import that only PEFT's own adapters need

    try:
        return dict(peft_trial(model, spec.peft).by_layer), []
    except ModelError as error:
        return {}, [str(error)]


def _by_module(model: PreTrainedModel) -> dict[str, int]:
    """Values of each module's own parameters; what modules share is with the first."""
    by_module: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        by_module[name.rpartition(".")[0]] += parameter.numel()
    return by_module
