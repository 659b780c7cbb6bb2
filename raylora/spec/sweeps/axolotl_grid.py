"""A grid file of axolotl's `--sweep` and a run's file enter, a grid over that run leaves.

Source: axolotl, `src/axolotl/cli/utils/sweeps.py`: keys map to lists of values, all combined; `_` holds a list of
mappings whose fields vary together. Every key that starts with `_` is read so, and a bare list as if it stood under one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raylora.errors import SpecError
from raylora.spec.reading.aliases import resolve_aliases
from raylora.spec.reading.draft import Draft, Origin
from raylora.spec.reading.file_kind import refuse_other_kinds
from raylora.spec.reading.load import origins_of, read_document
from raylora.spec.sweeps.load import LoadedSweep, finish
from raylora.spec.text.show import show
from raylora.spec.text.yaml_text import KeyPath, dotted


def grid_sweep(run: Path, grid: Path, overrides: Sequence[str] = ()) -> LoadedSweep:
    """Return the grid of a file of axolotl's over a run.

    Args:
        run: The run's file.
        grid: The grid's file.
        overrides: Words of `--set`; see `load_sweep`.

    Raises:
        SpecError: A file cannot be read or says something wrong; carries every problem with the line of the grid.
    """
    draft = _read(grid)
    draft.values |= {"run": str(run), "searcher": "grid"}
    return finish(draft, overrides, grid)


def _read(path: Path) -> Draft:
    """Return the draft of a sweep that has a space only."""
    document = read_document(path)
    refuse_other_kinds("grid", document.values, path)
    values = {"_": document.values} if isinstance(document.values, list) else document.values
    prefix: KeyPath = ("_",) if isinstance(document.values, list) else ()
    draft = Draft({"space": {}}, problems=document.problems)
    if not isinstance(values, dict):
        draft.refuse(("space",), f"got {show(values)}; a grid file has keys with lists of values")
        raise SpecError(draft.problems, str(path))
    lines = {(*prefix, *key): each.line for key, each in origins_of(document).items()}
    for key, choices in values.items():
        if not isinstance(choices, list) or not choices:
            draft.origins["space", key] = Origin(f"space.{key}", lines.get((key,)))
            draft.refuse(("space", key), f"got {show(choices)}; a grid file has a list of values for each key")
            continue
        name, knob = _translated(draft, key, choices, lines)
        draft.values["space"][name] = {"choice": knob}
        draft.origins["space", name] = Origin(dotted(("space", name)), lines.get((key,)))
        for index in range(len(choices)):
            place = ("space", name, "choice", index)
            draft.origins[place] = Origin(dotted(place), lines.get((key, index)))
    return draft


def _translated(draft: Draft, key: str, choices: list[Any], lines: dict[KeyPath, int | None]) -> tuple[str, list[Any]]:
    """Return a key and its values in our words: other tools' keys may set several fields, and then vary together."""
    read = []
    for index, value in enumerate(choices):
        fields = dict(value) if key.startswith("_") and isinstance(value, dict) else {key: value}
        each = Draft(fields, {(name,): Origin(name, lines.get((key, index))) for name in fields})
        resolve_aliases(each)
        draft.notes += [note for note in each.notes if note not in draft.notes]
        draft.problems += each.problems
        read.append(_flat(each.values))
    if key.startswith("_"):
        return key, read
    names = {name for fields in read for name in fields}
    if len(names) == 1 and all(read):
        name = names.pop()
        return name, [fields[name] for fields in read]
    return f"_{key}", read


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of groups by dotted name: `storage: {uri: x}` leaves the rest of `storage` alone."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name in ("distributed", "ray", "tracking", "storage") and isinstance(value, dict):
            found |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            found[name] = value
    return found
