"""What a sweep's recorded specification says that its report needs. A `SweepRecord` enters; called by the report."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from raylora.errors import InputError
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import run_of
from raylora.spec.text.yaml_text import write_yaml
from raylora.store.sweeps import SweepRecord, TrialRecord

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Aim:
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


def aim_of(record: SweepRecord) -> Aim:
    """Read what a sweep was asked for from its record."""
    spec = record.spec
    return Aim(spec.get("metric", "eval_loss"), spec.get("mode", "min"), _base(spec))


def drawn_by_ratio(record: SweepRecord) -> frozenset[str]:
    """Return the knobs that a sweep drew by orders of magnitude."""
    space = record.spec.get("space") or {}
    return frozenset(name for name, knob in space.items() if "loguniform" in knob)


def run_yaml(record: SweepRecord, trial: TrialRecord) -> str:
    """Return the run that a trial was, for `raylora train` as it stands.

    Every knob that was turned is in it, unless to null; of the other fields those at their defaults are left out.

    Workers, Ray, tracking and storage stay those of the sweep, as the trial's own were.

    Args:
        record: The sweep.
        trial: One of its trials, with its seed.
    """
    try:
        sweep = SweepSpec.model_validate(record.spec)
        spec = run_of(sweep, trial.config, trial.repeat)
    except (InputError, ValueError):
        # What a version with other fields recorded is shown as it was asked; `raylora validate` says what changed.
        asked = write_yaml(with_fields(aim_of(record).base, trial.config))
        return f"# As it was asked: this version of raylora does not read the sweep any more.\n{asked}"
    steps = _steps_of_tokens(sweep, spec, trial)
    values = _without_defaults(spec, trial.config)
    if steps is None:
        return write_yaml(values)
    # A run has no budget in tokens: it is told by the steps that take them, which the schedule ran over.
    tokens = _budget(sweep) or 0
    about = "" if trial.tokens >= tokens else "about "
    ready = write_yaml(values | {"max_steps": steps})
    return f"# max_steps: {about}the steps of budget: {{tokens: {tokens}}}\n{ready}"


def _without_defaults(spec: RunSpec, kept: Collection[str]) -> dict[str, Any]:
    """The fields of a run that are not at their defaults, and some that may be, in the order of all fields.

    Args:
        spec: The run.
        kept: Dotted fields to keep.
    """
    every = spec.model_dump(mode="json")
    turned = {name: value for name in kept if (value := _at(every, name)) is not None}
    values = with_fields(spec.model_dump(mode="json", exclude_defaults=True), turned)
    return {name: values[name] for name in every if name in values}


def _at(values: Any, name: str) -> Any:
    for part in name.split("."):
        if values is None:
            return None
        values = values[int(part)] if isinstance(values, list) else values.get(part)
    return values


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


def _budget(sweep: SweepSpec) -> int | None:
    return None if sweep.budget is None else sweep.budget.tokens


def _steps_of_tokens(sweep: SweepSpec, spec: RunSpec, trial: TrialRecord) -> int | None:
    """Steps over which a budget in tokens had the trial run; None where there is none, or its run ended before."""
    budget = _budget(sweep)
    ended_before = trial.status == "succeeded" and spec.early_stopping_patience is None
    if budget is None or not trial.tokens or (trial.tokens < budget and ended_before):
        return None
    steps = trial.steps if trial.tokens >= budget else math.ceil(budget * trial.steps / trial.tokens)
    return min(steps, spec.max_steps or steps)
