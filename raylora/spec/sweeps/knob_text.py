"""Knobs as they were written enter, knobs leave, or every problem at its line. `load.py` calls it."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from raylora.spec.fields.knobs import KINDS, AnyKnob
from raylora.spec.reading.draft import Draft
from raylora.spec.text.show import printable, show
from raylora.spec.text.yaml_text import KeyPath

_ALLOWS = {
    "choice": "a list of different values, such as [8, 16, 32]",
    "uniform": "two numbers, the lower first, such as [0.0, 0.1]",
    "loguniform": "two numbers above 0, the lower first, such as [1e-5, 1e-3]",
    "int": "two whole numbers, the lower first, such as [0, 10]",
    "ratio": "a number above 0, and of: with the name of another knob, such as {ratio: 2, of: lora_r}",
}


def read_knobs(draft: Draft) -> dict[str, AnyKnob]:
    """Return the knobs of a draft's `space` that are right by themselves; the others are noted in the draft."""
    written = draft.values.get("space")
    if written is not None and not isinstance(written, dict):
        draft.refuse(("space",), f"got {show(written)}; allowed: knobs by field, such as lora_r: {{choice: [8, 16]}}")
        return {}
    turned = {name: value for name, value in (written or {}).items() if value is not None}
    if not turned and not any(path[0] == "space" for path in draft.refused):
        draft.refuse(("space",), "no knob; give those that vary, such as lora_r: {choice: [8, 16, 32]}")
    knobs = {name: _read(draft, ("space", name), value) for name, value in turned.items()}
    return {name: knob for name, knob in knobs.items() if knob is not None}


def _read(draft: Draft, path: KeyPath, written: Any) -> AnyKnob | None:
    if not isinstance(written, dict):
        hint = f"; write {{choice: {show(written)}}}" if isinstance(written, list) else ""
        draft.refuse(
            path, f"got {show(written)}; allowed: one of {', '.join(KINDS)}, such as {{choice: [8, 16]}}{hint}"
        )
        return None
    values = {key: value for key, value in written.items() if value is not None}
    kinds = [key for key in values if key in KINDS]
    if len(kinds) != 1:
        says = f"got {' and '.join(kinds)}" if kinds else f"got {show(written)}"
        draft.refuse(path, f"{says}; allowed: one of {', '.join(KINDS)}{_nearest(list(values), list(KINDS))}")
        return None
    kind = kinds[0]
    fields = KINDS[kind].model_fields
    if strange := [key for key in values if key not in fields]:
        for key in strange:
            known = ", ".join(fields)
            draft.refuse((*path, key), f"unknown key; known beside {kind}: {known}{_nearest([key], list(fields))}")
        return None
    try:
        return KINDS[kind].model_validate(values)  # type: ignore[return-value]
    except ValidationError as error:
        _refuse(draft, path, kind, values, error)
        return None


def _refuse(draft: Draft, path: KeyPath, kind: str, values: dict[str, Any], error: ValidationError) -> None:
    key = next((str(each["loc"][0]) for each in error.errors() if each["loc"]), kind)
    if key == "when":
        message = (
            f"got {show(values[key])}; allowed: another knob with one of its choices, such as {{lr_scheduler: cosine}}"
        )
    elif key not in values:
        message = f"missing; allowed: {_ALLOWS[kind]}"
    else:
        message = f"got {show(values[key])}; allowed: {_ALLOWS[kind]}"
    draft.refuse((*path, key), message)


def _nearest(keys: list[str], known: list[str]) -> str:
    for key in keys:
        if nearest := difflib.get_close_matches(key, known, n=1, cutoff=0.5):
            return f"; nearest to {printable(key)}: {nearest[0]}"
    return ""
