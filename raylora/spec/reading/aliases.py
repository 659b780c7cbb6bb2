"""Other tools' keys in a draft become raylora's own, with one printed note each. `load.py` calls it.

`other_tools.py` says what is read as what; `foreign_keys.py` what to say about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylora.spec.reading.draft import Draft, Origin
from raylora.spec.reading.foreign_keys import answer
from raylora.spec.reading.other_tools import DATASET_ALIASES, DATASET_VALUES, RUN_ALIASES, RUN_VALUES, Alias, Reading
from raylora.spec.text.show import show
from raylora.spec.text.yaml_text import KeyPath, dotted

DEFAULTS_NOTE = "keys of other tools were read; what the file leaves out takes raylora's own defaults, not theirs"


def spellings(base: KeyPath) -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Return the foreign keys of a mapping, each with the paths beneath it that the key can set.

    Args:
        base: Where the mapping stands: empty for the run, `("datasets", 0)` for a dataset.
    """
    table = DATASET_ALIASES if base else RUN_ALIASES
    return {key: tuple(tuple(target.split(".")) for target in alias.targets) for key, alias in table.items()}


def resolve_aliases(draft: Draft) -> None:
    """Replace every foreign key and value of a draft, or note why it cannot be."""
    for base, mapping in draft.containers():
        _Resolution(draft, base, mapping).run()
    if draft.notes:
        draft.notes.append(DEFAULTS_NOTE)


class _Resolution:
    """One mapping: which fields were set by which foreign key so far."""

    def __init__(self, draft: Draft, base: KeyPath, mapping: dict[str, Any]) -> None:
        self.draft, self.base, self.mapping = draft, base, mapping
        self.aliases = DATASET_ALIASES if base else RUN_ALIASES
        self.values = DATASET_VALUES if base else RUN_VALUES
        self.set_by: dict[KeyPath, str] = {}

    def run(self) -> None:
        for key in list(self.mapping):
            if key in self.aliases:
                self.rename(key, self.aliases[key])
            elif key not in self.values:
                self.pass_over(key)
        for key, read in self.values.items():
            if self.mapping.get(key) is not None:
                self.translate(key, read)

    def rename(self, key: str, alias: Alias) -> None:
        """Move a foreign key's value to the fields it means."""
        value = self.mapping.pop(key)
        if value is None and not alias.reads_null:
            return
        try:
            found = {alias.targets[0]: value} if alias.read is None else alias.read(value)
        except ValueError as error:
            self.draft.refuse((*self.base, key), f"{error} ({alias.tool}'s key)")
            self.draft.refused.update((*self.base, *target.split(".")) for target in alias.targets)
            return
        told = [self.put(key, target, each, alias.read is None) for target, each in found.items()]
        if all(told):
            says, means = ("", alias.targets[0]) if alias.read is None else (f": {show(value)}", _means(found))
            self.note(key, f"{says} ({alias.tool})", means)

    def put(self, key: str, target: str, value: Any, renamed: bool) -> bool:
        """Set one field, unless it is already set to something else; say whether it is set."""
        path: KeyPath = (*self.base, *target.split("."))
        here = self.draft.value(path)
        if here is not None and (here != value or (renamed and path not in self.set_by)):
            other = self.set_by.get(path, target)
            self.draft.refuse((*self.base, key), f"{key} and {other} both set {target}; remove one of them")
            return False
        parent = self.draft.values if not path[:-1] else self.section(path[:-1])
        if parent is not None:
            parent[str(path[-1])] = value
        self.set_by[path] = key
        if (origin := self.draft.origins.get((*self.base, key))) is not None:
            self.draft.origins[path] = Origin(origin.written, origin.line)
        return True

    def section(self, path: KeyPath) -> dict[str, Any] | None:
        """Return the mapping at a path, made where nothing is; None where something else is."""
        holder = self.draft.value(path[:-1])
        if isinstance(holder, dict) and holder.get(path[-1]) is None:
            holder[path[-1]] = {}
        found = self.draft.value(path)
        return found if isinstance(found, dict) else None

    def translate(self, key: str, read: Reading) -> None:
        """Turn another tool's value of one of our fields into ours."""
        value = self.mapping[key]
        try:
            found = dict(read(value))
        except ValueError as error:
            self.mapping.pop(key)
            self.draft.refuse((*self.base, key), str(error))
            return
        if found == {key: value}:
            return
        self.mapping.pop(key)
        told = [self.put(key, target, each, False) for target, each in found.items()]
        if all(told):
            self.note(key, f": {show(value)}", _means(found))

    def pass_over(self, key: str) -> None:
        """Drop a foreign key that sets nothing, or refuse it."""
        try:
            words = answer(key, self.mapping[key], in_dataset=bool(self.base))
        except ValueError as error:
            self.draft.refuse((*self.base, key), str(error))
            words = ""
        if words is None:
            return
        self.mapping.pop(key)
        if words:
            self.draft.note((*self.base, key), f"{dotted((*self.base, key))} has no effect: {words}")

    def note(self, key: str, says: str, means: str) -> None:
        """Tell the user what a foreign key or value was read as."""
        path = (*self.base, key)
        self.draft.note(path, f"{dotted(path)}{says} {f'is read as {means}' if means else 'needs no setting'}")


def _means(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{target}: {show(value)}" for target, value in found.items())
