"""A space and its base run enter, what no trial could be made of leaves: before anything starts.

Every choice and both ends of every range are tried against the run's own fields, alone and with one another against
its rules. `SweepSpec` and `load.py` ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raylora.spec.fields.knobs import AnyKnob, Ratio, ends
from raylora.spec.fields.run import RunFields
from raylora.spec.reading.check import check_fields
from raylora.spec.reading.draft import Draft
from raylora.spec.reading.method_names import METHODS, Contradiction
from raylora.spec.rules.run import RULES
from raylora.spec.sweeps.corners import corners
from raylora.spec.sweeps.overlay import overlay
from raylora.spec.sweeps.space import applies, resolve
from raylora.spec.sweeps.space_shape import fields_of, flaws, method_names
from raylora.spec.text.show import show
from raylora.spec.text.yaml_text import KeyPath

Found = tuple[KeyPath, str]
"""Where in the space something is wrong, and what."""


def space_problems(
    run: RunFields, space: Mapping[str, AnyKnob], unread: frozenset[str] = frozenset(), *, run_is_right: bool = True
) -> Iterator[Found]:
    """Yield what is wrong with a space, each with its path beneath `space`.

    Args:
        run: The base run, without whatever is wrong with it.
        space: Knobs that are right by themselves.
        unread: Names of knobs that are not.
        run_is_right: Whether the rules can be asked.
    """
    flawed = [*flaws(space, unread), *(_always_one_method(run, space) if run_is_right else ())]
    yield from flawed
    sound = space.keys() - {path[0] for path, _ in flawed}
    alone = list(_alone(run, {name: knob for name, knob in space.items() if name in sound}))
    yield from alone
    if run_is_right and not flawed and not unread:
        yield from _together(run, space, {path for path, _ in alone})


def _always_one_method(run: RunFields, space: Mapping[str, AnyKnob]) -> Iterator[Found]:
    """Refuse what would make one method of all trials, those too that are drawn as another."""
    for name, place in method_names(space).items():
        field = METHODS[name].field
        if METHODS[name].holds(value := getattr(run, field)):
            yield (
                place,
                f"the run has {field}: {show(value)}, so that whatever is drawn would be {name}; take it out of the run",
            )


def _alone(run: RunFields, space: Mapping[str, AnyKnob]) -> Iterator[Found]:
    """Try each value by itself against the field it sets."""
    told: set[Found] = set()
    for name, knob in space.items():
        for place, value in ends(knob):
            overrides = value if name.startswith("_") else {name: value}
            for field, message in _wrong_fields(run, overrides):
                misnamed = field == name and message.startswith(("unknown key", "no key"))
                at: KeyPath = (name,) if misnamed else (name, *place)
                if (at, message) not in told:
                    told.add((at, message))
                    yield at, message if field == name else f"{field}: {message}"


def _wrong_fields(run: RunFields, overrides: Mapping[str, Any]) -> list[tuple[str, str]]:
    try:
        draft = Draft(overlay(run, overrides))
    except ValueError as error:
        return [(next(iter(overrides)), str(error))]
    check_fields(draft)
    return [(problem.field, problem.message) for problem in draft.problems]


def _together(run: RunFields, space: Mapping[str, AnyKnob], wrong: set[KeyPath]) -> Iterator[Found]:
    """Try values with one another against the run's rules, without those that are wrong alone; each rule is told once."""
    told: set[str] = set()
    for sampled in _combinations(space, wrong):
        overrides = resolve(space, sampled)
        for key, at, message in _wrong_together(run, space, overrides):
            if key not in told:
                told.add(key)
                yield (at,), f"{message} (with {_shown(overrides)})"


def _wrong_together(
    run: RunFields, space: Mapping[str, AnyKnob], overrides: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Yield a name for the kind of problem, the knob to tell it at, and the words."""
    try:
        draft = Draft(overlay(run, overrides))
    except Contradiction as error:
        yield "method", _owner(space, ("adapter",)), str(error)
        return
    except ValueError as error:
        at = next(
            (name for name in ("micro_batch_size", "distributed.num_workers") if name in space), next(iter(space))
        )
        yield "rows", at, str(error)
        return
    trial = check_fields(draft)
    for problem in draft.problems:
        at = _owner(space, (problem.field,))
        yield problem.field, at, problem.message if problem.field == at else f"{problem.field}: {problem.message}"
    for rule in RULES if not draft.problems else ():
        if (message := rule.check(trial)) is not None:
            at = _owner(space, rule.fields)
            yield rule.sentence, at, message if rule.fields[0] == at else f"{rule.fields[0]}: {message}"


def _owner(space: Mapping[str, AnyKnob], fields: tuple[str, ...]) -> str:
    """Return the knob that sets the first of some fields, or else the first that could have."""
    for field in fields:
        for name, knob in space.items():
            if any(f"{field}.".startswith(f"{each}.") for each in fields_of(name, knob)):
                return name
    return next(iter(space))


def _combinations(space: Mapping[str, AnyKnob], wrong: set[KeyPath]) -> Iterator[dict[str, Any]]:
    """Yield all combinations of ends, or all pairs where there are too many; none where a knob has nothing right."""
    values = {
        name: [value for place, value in ends(knob) if wrong.isdisjoint({(name,), (name, *place)})]
        for name, knob in space.items()
        if not isinstance(knob, Ratio)
    }
    for sampled, moved in corners(values, list(values)):
        for name in moved:
            sampled |= _conditions(space, name) if not applies(space, sampled, name) else {}
        yield sampled


def _conditions(space: Mapping[str, AnyKnob], name: str) -> dict[str, Any]:
    """Return the values under which a knob is turned."""
    found: dict[str, Any] = {}
    for other, value in space[name].when.items():
        found |= _conditions(space, other) | {other: value}
    return found


def _shown(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {show(value)}" for name, value in overrides.items())
