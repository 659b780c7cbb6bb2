"""What a target pattern would match: the linear layers of a model as rows, layers of one kind as one row.

A model without weights and a spec enter; rows and problems leave, so that a wrong pattern still shows what there is.
Called by the runtime.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from transformers import PreTrainedModel

from raylora.model.targets import find_targets, layer_values, linear_layers, refuse
from raylora.spec.adapter import AdapterFields


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
    """

    rows: tuple[TargetRow, ...]
    problems: tuple[str, ...]

    @property
    def trainable_parameters(self) -> int:
        """Values that a run with these targets trains."""
        return sum(row.trainable_parameters for row in self.rows)

    def check(self) -> None:
        """Refuse targets that no run can start with, as a run would.

        Raises:
            ModelError: All problems at once.
        """
        refuse(self.problems)


def inspect_targets(model: PreTrainedModel, spec: AdapterFields) -> Inspection:
    """Show which linear layers of a model get an adapter.

    Args:
        model: The base; its parameters may be on the meta device.
        spec: `lora_target_modules`, `lora_r` and `use_dora` count.
    """
    names, problems = find_targets(model, spec)
    groups: dict[tuple[str, tuple[int, int]], list[str]] = defaultdict(list)
    for name, layer in linear_layers(model).items():
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        groups[pattern, (layer.out_features, layer.in_features)].append(name)
    adapted = set(names)
    rows = []
    for (pattern, shape), members in groups.items():
        num_adapted = len(adapted.intersection(members))
        trainable = num_adapted * layer_values(spec, *shape)
        rows.append(TargetRow(pattern, shape, len(members), num_adapted, trainable))
    return Inspection(tuple(rows), tuple(problems))
