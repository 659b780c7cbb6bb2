"""What a sweep may vary: how a knob of `space` is written, and which values it can take.

The sweep's driver turns knobs into its searcher's own domains; `sweeps/space.py` turns what a searcher drew into fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from raylora.spec.fields.part import Number, Part, PositiveFloat, Text

Scalar = str | float | bool | None
"""What searchers can draw; a whole number is a float here."""

_Whole = Annotated[int, Number]
_Real = Annotated[float, Number]


class Knob(Part):
    """One thing that a sweep varies."""

    when: dict[str, Any] = Field(default_factory=dict)
    """Other knobs and the one of their choices under which this knob is turned; where one of them has another value, the run's own value stays."""


class Choice(Knob):
    """One of some values: words, numbers, lists, or mappings of fields that vary together."""

    choice: tuple[Any, ...] = Field(min_length=1)
    """The values, such as `[8, 16, 32]`."""

    @property
    def options(self) -> tuple[Scalar, ...]:
        """The values as searchers can draw them: a list or a mapping stands as its JSON."""
        return tuple(_option(value) for value in self.choice)

    def value(self, option: Any) -> Any:
        """Return the value that an option stands for; a value stands for itself.

        Raises:
            ValueError: It is none of them.
        """
        for value in self.choice:
            if same(value, option) or same(_option(value), option):
                return value
        raise ValueError(f"got {option!r}; allowed: {', '.join(map(str, self.options))}")

    @model_validator(mode="after")
    def _all_different(self) -> Self:
        if len({json.dumps(option) for option in self.options}) < len(self.choice):
            raise ValueError("a value is given twice")
        return self


class Uniform(Knob):
    """Any number of a range, each as likely."""

    uniform: tuple[_Real, _Real]
    """Least and greatest number, such as `[0.0, 0.1]`."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        _refuse_descending(*self.uniform)
        return self


class LogUniform(Knob):
    """Any number of a range, each order of magnitude as likely."""

    loguniform: tuple[PositiveFloat, PositiveFloat]
    """Least and greatest number, above 0, such as `[1e-5, 1e-3]`."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        _refuse_descending(*self.loguniform)
        return self


class Integer(Knob):
    """Any whole number of a range, each as likely."""

    int: tuple[_Whole, _Whole]
    """Least and greatest whole number, both among the values, such as `[0, 10]`."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        _refuse_descending(*self.int)
        return self


class Ratio(Knob):
    """A fixed multiple of another knob; nothing is drawn for it."""

    ratio: PositiveFloat
    """The factor, such as 2 for `lora_alpha` = 2 `lora_r`."""

    of: Text
    """The other knob; where that one is not turned, neither is this."""


KINDS: Mapping[str, type[Knob]] = {
    "choice": Choice,
    "uniform": Uniform,
    "loguniform": LogUniform,
    "int": Integer,
    "ratio": Ratio,
}
"""The key that tells each kind of knob."""

AnyKnob = Choice | Uniform | LogUniform | Integer | Ratio
Space = dict[str, AnyKnob]
"""Knobs by the dotted field that each sets; a name that starts with `_` is free, and its choices are mappings of fields."""


def ends(knob: AnyKnob) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
    """Return the values to try before a sweep starts, each with its place in the knob: all choices, both ends of a range."""
    if isinstance(knob, Choice):
        return tuple((("choice", index), value) for index, value in enumerate(knob.choice))
    if isinstance(knob, Ratio):
        return ()
    kind = next(key for key, each in KINDS.items() if isinstance(knob, each))
    return tuple(((kind, index), value) for index, value in enumerate(getattr(knob, kind)))


def clip(knob: AnyKnob, value: Any) -> Any:
    """Return a value moved into a knob's range; PBT multiplies beyond it.

    Args:
        knob: Where it has no range, the value stays as it is.
        value: A number, unless the knob is a choice.
    """
    if isinstance(knob, Choice | Ratio):
        return value
    (_, low), (_, high) = ends(knob)
    return min(max(value, low), high)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same in YAML: true is not 1, a tuple is a list.

    Args:
        one: A value as YAML or a searcher gives it.
        other: Another.
    """
    return _option(one) == _option(other) and isinstance(one, bool) == isinstance(other, bool)


def _option(value: Any) -> Scalar:
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, sort_keys=True)
    scalar: Scalar = value
    return scalar


def _refuse_descending(low: float, high: float) -> None:
    if low >= high:
        raise ValueError("the lower number comes first")
