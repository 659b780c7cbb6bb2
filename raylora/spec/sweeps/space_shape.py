"""Knobs that are right by themselves enter, what is wrong among them leaves. Asked before anything looks into a space."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from raylora.spec.fields.knobs import AnyKnob, Choice, Ratio, ends
from raylora.spec.reading.method_names import is_name
from raylora.spec.text.show import show
from raylora.spec.text.yaml_text import KeyPath

_NO_KNOBS: Mapping[str, str] = {
    "all trials are judged by the same validation rows: set it in the run": "val_set_size split_seed test_datasets",
    "report_steps says when trials are evaluated": "eval_steps",
    "it is the same for all trials, and changes nothing that is trained: set it in the run": """
        run_name ray tracking storage""",
}
"""Reasons, each with the fields that a sweep does not vary."""


def flaws(space: Mapping[str, AnyKnob], unread: frozenset[str] = frozenset()) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is wrong among knobs: names, conditions, multiples, two that set the same field.

    Args:
        space: Knobs by name.
        unread: Names of further knobs, of which nothing is known.

    Yields:
        Where, as a path beneath `space`, and what.
    """
    found = [*_fields(space), *_references(space, unread)]
    yield from found or _circles(space)


def fields_of(name: str, knob: AnyKnob) -> dict[str, KeyPath]:
    """Return the dotted fields that a knob sets, each with its first place beneath `space`.

    Args:
        name: Of the knob: the field itself, or a free name that starts with `_`.
        knob: Under a free name, a choice of mappings.
    """
    if not name.startswith("_"):
        return {name: (name,)}
    found: dict[str, KeyPath] = {}
    for place, value in ends(knob):
        for field in value if isinstance(value, dict) else ():
            found.setdefault(field, (name, *place))
    return found


def sets_adapter(written: Any) -> bool:
    """Whether a space sets `adapter`, by itself or among fields that vary together.

    Args:
        written: The space as it is written, right or not.
    """
    if isinstance(written, dict):
        return "adapter" in written or any(map(sets_adapter, written.values()))
    return isinstance(written, list) and any(map(sets_adapter, written))


def method_names(space: Mapping[str, AnyKnob]) -> dict[str, KeyPath]:
    """Return the names of methods that a space has for values of `adapter`, each with its first place.

    Args:
        space: Knobs by name.
    """
    found: dict[str, KeyPath] = {}
    for knob_name, knob in space.items():
        for place, value in ends(knob):
            asked = value.get("adapter") if knob_name.startswith("_") and isinstance(value, dict) else value
            if is_name(asked) and (knob_name == "adapter" or knob_name.startswith("_")):
                found.setdefault(asked, (knob_name, *place))
    return found


def _fields(space: Mapping[str, AnyKnob]) -> Iterator[tuple[KeyPath, str]]:
    for name, knob in space.items():
        if name.startswith("_"):
            if not isinstance(knob, Choice):
                yield (name,), "a name that starts with _ is a choice of mappings; write the name of a field"
            for place, value in ends(knob):
                if not isinstance(value, dict) or not value:
                    yield (
                        (name, *place),
                        f"got {show(value)}; allowed: fields that vary together, {{lora_r: 8, seed: 1}}",
                    )
        for field, at in fields_of(name, knob).items():
            for reason, words in _NO_KNOBS.items():
                if field.partition(".")[0] in words.split():
                    yield at, f"{'' if field == name else f'{field}: '}no knob: {reason}"
    for one, other in itertools.combinations(space, 2):
        mine, its = fields_of(one, space[one]), fields_of(other, space[other])
        both = [b for a in mine for b in its if f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")]
        if both:
            yield its[both[0]], f"{one} sets it too; a field is set by one knob"


def _references(space: Mapping[str, AnyKnob], unread: frozenset[str]) -> Iterator[tuple[KeyPath, str]]:
    for name, knob in space.items():
        for other, value in knob.when.items():
            if other in unread:
                continue
            at = (name, "when", other)
            condition = space.get(other)
            if condition is None or other == name:
                yield at, f"no other knob of that name{_nearest(other, space, name)}"
            elif not isinstance(condition, Choice):
                yield at, f"{other} has no choices; a condition names a knob with choice: [...] and one of its values"
            elif not _is_choice(condition, value):
                yield at, f"got {show(value)}; {other} is one of {', '.join(show(each) for each in condition.choice)}"
        if isinstance(knob, Ratio) and knob.of not in unread:
            of = space.get(knob.of)
            if of is None or knob.of == name:
                yield (name, "of"), f"got {knob.of!r}: no other knob of that name{_nearest(knob.of, space, name)}"
            elif not _is_numeric(of):
                yield (name, "of"), f"{knob.of} has values that are no numbers, and no multiple"


def _circles(space: Mapping[str, AnyKnob]) -> Iterator[tuple[KeyPath, str]]:
    for name in space:
        if name in _reached(space, name):
            yield (name,), "depends on itself, by way of its conditions or what it is a multiple of"


def _reached(space: Mapping[str, AnyKnob], name: str) -> set[str]:
    found: set[str] = set()
    left = [name]
    while left:
        knob = space[left.pop()]
        new = ({*knob.when, *({knob.of} if isinstance(knob, Ratio) else ())} - found) & space.keys()
        found |= new
        left += new
    return found


def _is_choice(knob: Choice, value: Any) -> bool:
    try:
        knob.value(value)
    except ValueError:
        return False
    return True


def _is_numeric(knob: AnyKnob) -> bool:
    values = [value for _, value in ends(knob)]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _nearest(word: str, space: Mapping[str, AnyKnob], name: str) -> str:
    known = [each for each in space if each != name]
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; nearest: {nearest[0]}" if nearest else f"; the space has {', '.join(known) or 'no other'}"
