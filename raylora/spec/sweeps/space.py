"""What a searcher drew enters, the fields of one trial leave; and all configurations of a finite space.

The sweep's driver calls `resolve` through `trial.py`, and `configurations` for a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raylora.errors import InputError
from raylora.spec.fields.knobs import AnyKnob, Choice, Integer, Ratio, same


def resolve(space: Mapping[str, AnyKnob], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a trial sets over its base run.

    Args:
        space: Knobs by name.
        sampled: What was drawn for each knob but the ratios: an option or value of a choice, a number of a range.
            What was drawn for a knob whose conditions do not hold is let go, and need not be there.

    Returns:
        Values by dotted field, in the order of the space.

    Raises:
        InputError: Something is missing, or belongs to no knob, or is none of a knob's choices.
    """
    if strangers := sorted(set(sampled) - {name for name, knob in space.items() if not isinstance(knob, Ratio)}):
        raise InputError(f"sampled: {', '.join(strangers)} is no knob to draw; the space has {', '.join(space)}")
    values: dict[str, Any] = {}
    for name in space:
        if applies(space, sampled, name):
            value = _value(space, sampled, name)
            values |= value if name.startswith("_") else {name: value}
    return values


def applies(space: Mapping[str, AnyKnob], sampled: Mapping[str, Any], name: str) -> bool:
    """Whether a knob is turned: its conditions hold, and what it is a multiple of is turned.

    Args:
        space: Knobs by name.
        sampled: As in `resolve`.
        name: Of the knob.
    """
    knob = space[name]
    if isinstance(knob, Ratio) and not applies(space, sampled, knob.of):
        return False
    return all(
        applies(space, sampled, other) and same(_value(space, sampled, other), value)
        for other, value in knob.when.items()
    )


def _value(space: Mapping[str, AnyKnob], sampled: Mapping[str, Any], name: str) -> Any:
    knob = space[name]
    if isinstance(knob, Ratio):
        return knob.ratio * _value(space, sampled, knob.of)
    if name not in sampled:
        raise InputError(f"sampled: nothing was drawn for {name}; give one value for each knob that applies")
    drawn = sampled[name]
    if not isinstance(knob, Choice):
        return int(drawn) if isinstance(knob, Integer) else float(drawn)
    try:
        return knob.value(drawn)
    except ValueError as error:
        raise InputError(f"sampled: {name}: {error}") from error


def is_finite(knob: AnyKnob) -> bool:
    """Whether a knob has finitely many values."""
    return isinstance(knob, Choice | Integer | Ratio)


def configurations(space: Mapping[str, AnyKnob]) -> Iterator[dict[str, Any]]:
    """Yield what a grid draws: each configuration once, the last knob varying fastest.

    Args:
        space: Finite knobs.

    Yields:
        What `resolve` takes, without the knobs that do not apply.
    """
    yield from _drawn(space, _conditions_first(space), {})


def _conditions_first(space: Mapping[str, AnyKnob]) -> list[str]:
    """Return the knobs to draw in the order of the space, but those that a condition names before it."""
    found: list[str] = []

    def add(name: str) -> None:
        for other in space[name].when:
            add(other)
        if name not in found:
            found.append(name)

    for name, knob in space.items():
        if not isinstance(knob, Ratio):
            add(name)
    return found


def _drawn(space: Mapping[str, AnyKnob], names: list[str], sampled: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is drawn so far with every value of the knobs that are left, lazily: a grid may be endless to wait for."""
    if not names:
        yield sampled
    elif applies(space, sampled, names[0]):
        for value in _values(space[names[0]]):
            yield from _drawn(space, names[1:], sampled | {names[0]: value})
    else:
        yield from _drawn(space, names[1:], sampled)


def _values(knob: AnyKnob) -> Sequence[Any]:
    if isinstance(knob, Choice):
        return knob.options
    if isinstance(knob, Integer):
        low, high = knob.int
        return range(low, high + 1)
    raise InputError("a grid needs finite knobs: choice, int or ratio")
