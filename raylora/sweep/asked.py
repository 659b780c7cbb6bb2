"""What a sweep's recorded specification says that its report needs. A `SweepRecord` enters; called by the report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from raylora.errors import SpecError
from raylora.spec.run import RunSpec
from raylora.spec.yaml_text import write_yaml
from raylora.store.sweeps import SweepRecord

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Asked:
    """What was asked of a sweep.

    Args:
        metric: Name of what is compared, such as `eval_loss`.
        mode: Whether less or more of it is better.
        base: Fields of the run that every trial shares, nested as in a configuration.
    """

    metric: str
    mode: Mode
    base: Mapping[str, Any]

    def better(self, metric: float) -> float:
        """Return the metric so that smaller is better."""
        return -metric if self.mode == "max" else metric


def asked_of(record: SweepRecord) -> Asked:
    """Read what a sweep was asked for from its record."""
    spec = record.spec
    return Asked(spec.get("metric", "eval_loss"), spec.get("mode", "min"), _base(spec))


def run_yaml(base: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return a configuration that `raylora train` runs as it stands; fields at their defaults are left out.

    Args:
        base: Fields that every trial shares.
        config: The sampled fields of one, dotted.
    """
    values = with_fields(base, config)
    # What a version with other fields recorded is shown as it was asked; `raylora validate` says what changed.
    with suppress(SpecError, ValueError):
        values = RunSpec.model_validate(values).model_dump(mode="json", exclude_defaults=True)
    return write_yaml(values)


def with_fields(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with dotted fields set, items of lists by index; the base stays as it is.

    Args:
        base: Nested values.
        config: Value by dotted field; None for a field's default.
    """
    values = deepcopy(dict(base))
    for field, value in config.items():
        here: Any = values
        *groups, last = field.split(".")
        for part in groups:
            if isinstance(here, list):
                here = here[int(part)]
                continue
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
        if isinstance(here, list):
            here[int(last)] = value
        elif value is None:
            here.pop(last, None)
        else:
            here[last] = value
    return values


def _base(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the run with those that the sweep replaces: how long, and how often evaluated."""
    base = dict(spec.get("run") or {})
    steps = (spec.get("budget") or {}).get("steps")
    validates = base.get("val_set_size") or base.get("test_datasets")
    report_steps = spec.get("report_steps") if validates else None
    return base | ({"max_steps": steps} if steps else {}) | ({"eval_steps": report_steps} if report_steps else {})
