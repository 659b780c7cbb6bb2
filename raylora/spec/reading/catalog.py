"""Every field of a configuration with its words, in the order a reader meets them.

`check.py` looks fields up in it; `pages/reference.py`, `pages/template.py` and `pages/schema.py` are written from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from raylora.spec.fields.adapter import AdapterFields
from raylora.spec.fields.base import BaseFields
from raylora.spec.fields.data import DataFields, DatasetSpec
from raylora.spec.fields.knobs import KINDS
from raylora.spec.fields.part import Part
from raylora.spec.fields.place import DistributedSpec, RaySpec, StorageSpec, TrackingSpec
from raylora.spec.fields.run import RunFields
from raylora.spec.fields.sweep import BudgetSpec, SweepFields
from raylora.spec.fields.task import TaskFields
from raylora.spec.fields.train import TrainFields
from raylora.spec.text.yaml_text import KeyPath


@dataclass(frozen=True)
class Group:
    """Fields that stand together.

    Args:
        title: Heading.
        prefix: What stands before each field's name, such as `distributed.`; empty for flat fields.
        about: One sentence.
        fields: Fields by name.
    """

    title: str
    prefix: str
    about: str
    fields: dict[str, FieldInfo]


def _group(title: str, part: type[Part], prefix: str = "") -> Group:
    inherited_last = sorted(part.model_fields.items(), key=lambda each: each[0] not in part.__annotations__)
    return Group(title, prefix, inspect.getdoc(part) or "", dict(inherited_last))


GROUPS = (
    _group("Base model", BaseFields),
    _group("Task", TaskFields),
    _group("Adapter", AdapterFields),
    _group("Data", DataFields),
    _group("Each entry of datasets and test_datasets", DatasetSpec, "datasets.0."),
    _group("Training", TrainFields),
    Group("Run", "", "What the run is called.", {"run_name": RunFields.model_fields["run_name"]}),
    _group("Workers", DistributedSpec, "distributed."),
    _group("Ray", RaySpec, "ray."),
    _group("Tracking", TrackingSpec, "tracking."),
    _group("Storage", StorageSpec, "storage."),
)

SWEEP_GROUPS = (
    _group("Sweep", SweepFields),
    _group("Budget", BudgetSpec, "budget."),
    *(_group(f"Knob: {key}", kind, "space.NAME.") for key, kind in KINDS.items()),
)


def part_in(field: FieldInfo) -> type[Part] | None:
    """Return the group of fields that a field is, or is a list of; None for a plain field."""
    for annotation in (field.annotation, *get_args(field.annotation)):
        if isinstance(annotation, type) and issubclass(annotation, Part):
            return annotation
    return None


def find(path: KeyPath, root: type[Part] = RunFields) -> tuple[KeyPath, FieldInfo | None, type[Part]]:
    """Walk a path as far as it names fields.

    Args:
        path: Keys and indices; what follows a plain field, such as an index into its list, is let go.
        root: What the path starts in.

    Returns:
        The walked path, the field at its end (None where a key names no field), and the part that the last key
        belongs to.
    """
    part = root
    walked: KeyPath = ()
    field: FieldInfo | None = None
    for key in path:
        if isinstance(key, int):
            walked = (*walked, key)
            continue
        if field is not None:
            inner = part_in(field)
            if inner is None:
                return walked, field, part
            part = inner
        walked, field = (*walked, key), part.model_fields.get(key)
        if field is None:
            break
    return walked, field, part


def places(name: str) -> Iterator[str]:
    """Yield the dotted paths of all fields of that name."""
    for group in GROUPS:
        if name in group.fields:
            yield f"{group.prefix}{name}"


def default_of(field: FieldInfo) -> Any:
    """Return a field's default as plain JSON-like data; ask `is_required` first."""
    value = field.get_default(call_default_factory=True, validated_data={})
    return (
        value.model_dump(mode="json") if isinstance(value, Part) else list(value) if isinstance(value, tuple) else value
    )
