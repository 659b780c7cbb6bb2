"""A sweep and what its searcher drew enter, the run of one trial leaves. The sweep's driver calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylora.errors import InputError, SpecError
from raylora.spec.fields.part import SEEDS
from raylora.spec.reading.check import check
from raylora.spec.reading.draft import Draft
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.overlay import overlay
from raylora.spec.sweeps.space import resolve
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.text.show import show


def trial_spec(sweep: SweepSpec, sampled: Mapping[str, Any], repeat: int = 0) -> RunSpec:
    """Return the run of one trial.

    Trials are fair by construction: the budget, the validation rows and, unless `gradient_accumulation_steps` is a
    knob, the rows of a step are those of the sweep's run. A repeat trains under another seed, which changes the
    adapter's start, the order of rows and dropout; the same repeat of two configurations sees the same rows in the
    same order.

    Args:
        sweep: The sweep.
        sampled: What was drawn for each knob; see `space.resolve`.
        repeat: Which of the sweep's repeats, from 0, whose seed is the run's own.

    Raises:
        InputError: Nothing was drawn for a knob, or its value is none of the knob's.
        SpecError: What was drawn makes no run.
    """
    return run_of(sweep, resolve(sweep.space, sampled), repeat)


def run_of(sweep: SweepSpec, config: Mapping[str, Any], repeat: int = 0) -> RunSpec:
    """Return the run of one trial from the fields that were set for it, as a sweep's record has them.

    Args:
        sweep: The sweep.
        config: Values by dotted field, from `space.resolve`.
        repeat: As in `trial_spec`.

    Raises:
        InputError: The fields do not fit the sweep's run.
        SpecError: They make no run.
    """
    run = sweep.run
    try:
        values = overlay(run, config)
    except ValueError as error:
        raise InputError(f"sampled {show(dict(config))}: {error}") from error
    values["seed"] = (int(values.get("seed", run.seed)) + repeat) % SEEDS
    if run.val_set_size > 0 and values["seed"] != run.seed_of_split:
        values["split_seed"] = run.seed_of_split
    if sweep.budget is not None and sweep.budget.steps is not None:
        asked = values["max_steps"] if "max_steps" in config else None
        values["max_steps"] = min(asked or sweep.budget.steps, sweep.budget.steps)
    values["eval_steps"] = sweep.report_steps if run.validates else None
    draft = Draft(values)
    spec = check(draft)
    if spec is None:
        raise SpecError(draft.problems, f"a trial with {show(dict(config))}")
    return spec
