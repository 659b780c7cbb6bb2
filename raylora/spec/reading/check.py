"""Values that still may be wrong enter, a RunSpec leaves, or every problem in words a person can act on."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raylora.spec.fields.part import Part
from raylora.spec.fields.run import RunFields
from raylora.spec.reading.aliases import spellings
from raylora.spec.reading.catalog import find, places
from raylora.spec.reading.draft import Draft
from raylora.spec.reading.method_names import METHODS
from raylora.spec.rules.run import broken_rules
from raylora.spec.run import RunSpec
from raylora.spec.text.show import printable, show
from raylora.spec.text.words import allowed, choices
from raylora.spec.text.yaml_text import KeyPath

_STAND_INS = {"base_model": "stand-in", "datasets": [{"path": "stand-in"}]}
"""Values of required fields that let the rules be asked while those fields are wrong or missing."""

_MEANT = {
    **dict.fromkeys(("yes", "y", "on", "1", "true"), "true"),
    **dict.fromkeys(("no", "n", "off", "0", "false"), "false"),
}
"""What other words for true and false, YAML 1.1's among them, most likely mean."""


def check(draft: Draft) -> RunSpec | None:
    """Validate a draft whose keys are raylora's own.

    Returns:
        The run; None where the draft has problems, all of them noted in it.
    """
    check_run(draft)
    return None if draft.problems else RunSpec.model_validate(draft.values)


def check_run(draft: Draft) -> RunFields:
    """Note all that is wrong with a draft, and return the run that is left without it."""
    run = check_fields(draft)
    _ask_rules(draft, run)
    return run


def check_fields(draft: Draft) -> RunFields:
    """Note what is wrong with the fields each by itself, and return the run that is left without it."""
    _drop_nulls(draft.values)
    try:
        return RunFields.model_validate(draft.values)
    except ValidationError as error:
        note_errors(draft, error)
        return _run_without(draft)


def _drop_nulls(values: Any) -> None:
    """Take out empty values: a key without a value asks for the default."""
    if isinstance(values, dict):
        for key in [key for key, value in values.items() if value is None]:
            del values[key]
    for each in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        _drop_nulls(each)


def note_errors(draft: Draft, error: ValidationError, root: type[Part] = RunFields) -> None:
    """Put pydantic's errors in our words, once a field.

    The deepest come first: a list is also called too short when one of its items is wrong.

    Args:
        draft: What was validated.
        error: What pydantic says.
        root: As what it was validated.
    """
    holds_refused = {part for path in draft.refused for part in _prefixes(path)}
    for each in sorted(error.errors(include_url=False), key=lambda each: -len(each["loc"])):
        loc, kind = each["loc"], each["type"]
        path, field, part = find(loc, root)
        if kind == "extra_forbidden":
            draft.refuse(loc, _unknown(loc) if root is RunFields else _unknown_in(part, loc))
            holds_refused.update(_prefixes(loc))
        elif path not in holds_refused and draft.refused.isdisjoint(_prefixes(path)):
            _note_error(draft, path, field, kind, each["msg"])
            holds_refused.update(_prefixes(path))


def _prefixes(path: KeyPath) -> list[KeyPath]:
    return [path[:depth] for depth in range(1, len(path) + 1)]


def _note_error(draft: Draft, path: KeyPath, field: FieldInfo | None, kind: str, words: str) -> None:
    if field is None or kind == "secret":
        draft.refuse(path, words)
    elif kind == "missing":
        about = (field.description or "").split(";")[0].rstrip(".")
        draft.refuse(path, f"missing; give it: {about[:1].lower()}{about[1:]}")
    else:
        value, may_be = draft.value(path), allowed(field)
        may_be = may_be.replace("number", "finite number", 1) if kind == "finite_number" else may_be
        known = (*choices(field), *(METHODS if path == ("adapter",) else ()))
        draft.refuse(path, f"got {show(value)}; allowed: {may_be}{_hint(value, may_be, known)}")


def _hint(value: Any, words: str, known: tuple[str, ...]) -> str:
    """Say what to do next where it can be guessed."""
    if isinstance(value, str) and (nearest := difflib.get_close_matches(value, known, n=1)):
        return f"; nearest: {nearest[0]}"
    if words == "true or false" and (meant := _MEANT.get(str(value).lower())):
        return f"; write {meant}"
    if words == "text" and isinstance(value, int | float):
        return "; put it in quotes"
    if words.startswith("a list of at least one group"):
        return "; write [{path: rows.jsonl, type: chat}]"
    if words.startswith("a list") and not isinstance(value, list):
        return "; write [one, two], or one a line after a dash"
    return ""


def _unknown(path: KeyPath) -> str:
    """Say what an unknown key may have meant."""
    key = str(path[-1])
    ours = find(path)[2].model_fields
    theirs = spellings(path[:-1]) if len(path) != 2 else {}
    elsewhere = [place for place in places(key) if place != key]
    if elsewhere and len(path) == 1:
        return f"no key of this level; it belongs to {elsewhere[0].rpartition('.')[0]}: write {elsewhere[0]}"
    if len(path) > 1 and key in RunFields.model_fields:
        return f"no key of {'.'.join(map(str, path[:-1]))}; move it to the left margin"
    nearest = difflib.get_close_matches(key, [*ours, *theirs], n=1, cutoff=0.5)
    if not nearest:
        return f"unknown key; {printable(key)} is near none of those known here: see raylora schema"
    fields = " or ".join(".".join(target) for target in theirs.get(nearest[0], ()))
    return f"unknown key; nearest: {nearest[0]}" + (f", which is {fields} here" if fields else "")


def _unknown_in(part: type[Part], path: KeyPath) -> str:
    """Say what an unknown key of a part that no other tool spells differently may have meant."""
    nearest = difflib.get_close_matches(str(path[-1]), part.model_fields, n=1, cutoff=0.5)
    return f"unknown key; nearest: {nearest[0]}" if nearest else f"unknown key; known: {', '.join(part.model_fields)}"


def _run_without(draft: Draft) -> RunFields:
    """Return the run that is left when whatever is wrong by itself takes its default."""
    bad: set[KeyPath] = {path[:2] if path[0] in _SECTIONS else path[:1] for path in draft.refused}
    values = _STAND_INS | {key: value for key, value in draft.values.items() if (key,) not in bad}
    for key in _SECTIONS & set(values):
        section = values[key] if isinstance(values[key], dict) else {}
        values[key] = {name: value for name, value in section.items() if (key, name) not in bad}
    return RunFields.model_validate(values)


_SECTIONS = {"distributed", "ray", "tracking", "storage"}


def _ask_rules(draft: Draft, run: RunFields) -> None:
    """Note the rules broken by fields that are right by themselves, at the first field that was written."""
    refused = frozenset(".".join(map(str, path[:depth])) for path in draft.refused for depth in (1, 2))
    for problem in broken_rules(run, refused):
        draft.refuse(tuple(problem.field.split(".")), problem.message)
