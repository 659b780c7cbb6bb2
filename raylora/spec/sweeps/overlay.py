"""A run's fields and what a trial sets over them enter, plain values for another run leave, with as many rows in a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylora.spec.fields.run import RunFields
from raylora.spec.reading.method_names import METHODS, is_name, named

ACCUMULATION = "gradient_accumulation_steps"


def overlay(run: RunFields, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's values with some fields set; an `adapter` that names a method sets what makes it, too.

    A trial with another micro-batch or other workers takes as many rows in a step as the run, by accumulation, unless
    accumulation is set too: then the rows of a step vary on purpose.

    Args:
        run: The run.
        overrides: Values by dotted field, lists by index; None for a field's default.

    Raises:
        Contradiction: `adapter` names a method, and another override says otherwise.
        ValueError: A field is no group or list to look into, or the rows of a step cannot be shared evenly.
    """
    values = run.model_dump(mode="json")
    for name, value in _with_methods_fields(overrides).items():
        _put(values, name.split("."), value)
    if ACCUMULATION not in overrides:
        place = values.get("distributed")
        num_workers = place.get("num_workers", 1) if isinstance(place, dict) else None
        _hold_rows(values, run.rows_per_step, values.get("micro_batch_size", 1), num_workers)
    return values


def _with_methods_fields(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    name = overrides.get("adapter")
    if not is_name(name):
        return overrides
    field = METHODS[name].field
    given = overrides.get(field)
    if given is None and field in overrides:
        given = RunFields.model_fields[field].default
    return {**overrides, **named(name, given)}


def _put(values: Any, parts: list[str], value: Any) -> None:
    here = values
    for depth, part in enumerate(parts, start=1):
        is_last = depth == len(parts)
        key: Any = int(part) if isinstance(here, list) and part.isascii() and part.isdigit() else part
        if not isinstance(here, dict) and not (isinstance(here, list) and key in range(len(here))):
            has = f"a list of {len(here)}: give an index below that" if isinstance(here, list) else "a single value"
            raise ValueError(f"{'.'.join(parts[: depth - 1])} is {has}")
        if not is_last and isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
        if is_last and value is None and isinstance(here, dict):
            here.pop(key, None)
        elif is_last:
            here[key] = value
        else:
            here = here[key]


def _hold_rows(values: dict[str, Any], num_rows: int, micro_batch_size: Any, num_workers: Any) -> None:
    """Make up for another number of rows at once; what is no count is told by the fields' own check."""
    at_once, workers = _whole(micro_batch_size), _whole(num_workers)
    if at_once is None or workers is None:
        return
    accumulation, left = divmod(num_rows, at_once * workers)
    if left:
        raise ValueError(
            f"micro_batch_size: {at_once} on num_workers: {workers} does not divide the rows of the run's "
            f"steps, {num_rows}, which every trial takes; choose divisors, or vary {ACCUMULATION} too"
        )
    values[ACCUMULATION] = accumulation


def _whole(count: Any) -> int | None:
    """A count above 0, which ratios and YAML's `1.0` have as a float."""
    is_whole = type(count) is int or (isinstance(count, float) and count.is_integer())
    return int(count) if is_whole and count > 0 else None
