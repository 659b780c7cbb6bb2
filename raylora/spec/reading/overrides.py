"""`--set a.b=c`: words of the command line enter a draft and win over its file. `load.py` calls it.

A value is read as YAML, so `--set lora_target_modules=[q_proj,v_proj]` is a list and `--set run_name=` takes the
field back to its default. A number in a path is the index of a list: `--set datasets.0.path=rows.jsonl`.
"""

from __future__ import annotations

from typing import Any

from raylora.errors import Problem
from raylora.spec.reading.aliases import spellings
from raylora.spec.reading.draft import Draft, Origin
from raylora.spec.text.yaml_text import KeyPath, read_yaml


def apply_override(draft: Draft, override: str, path: KeyPath | None = None) -> None:
    """Set one value, and take out what the file said about the same field under any of its spellings.

    Args:
        draft: The file's values; changed.
        override: `key=value`, the key a dotted path.
        path: Where the value goes, where the key does not say it dot by dot.
    """
    written, equals, text = override.partition("=")
    written = written.strip()
    if not equals or not all(written.split(".")):
        draft.problems.append(Problem("--set", f"got {override!r}; allowed: key=value, such as lora_r=8"))
        return
    document = read_yaml(text)
    if document.problems:
        hint = "put text with special characters in quotes inside the quotes of the shell: --set 'key=\"value\"'"
        draft.problems.append(Problem(written, f"from --set: {document.problems[0].message}; {hint}"))
        return
    path = path or _path(written, draft)
    _forget_spellings(draft, path)
    _put(draft, path, written, document.values)


def _path(written: str, draft: Draft) -> KeyPath:
    """Return a written path with the indices of lists as numbers."""
    path: KeyPath = ()
    for part in written.split("."):
        in_list = isinstance(draft.value(path), list) and part.isascii() and part.isdigit() and len(part) < 10
        path = (*path, int(part) if in_list else part)
    return path


def _put(draft: Draft, path: KeyPath, written: str, value: Any) -> None:
    """Put a value at a path, making mappings on the way where nothing is."""
    here: Any = draft.values
    for depth, part in enumerate(path[:-1], start=1):
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        if not _holds(here, part):
            return _cannot(draft, path, depth, here)
        here = here[part]
    if not isinstance(here, dict) and not _holds(here, path[-1]):
        return _cannot(draft, path, len(path), here)
    for known in [each for each in draft.origins if each[: len(path)] == path]:
        del draft.origins[known]
    here[path[-1]] = value
    draft.origins[path] = Origin(written, None)


def _holds(here: Any, part: str | int) -> bool:
    if isinstance(here, list):
        return isinstance(part, int) and part < len(here)
    return isinstance(here, dict) and part in here


def _cannot(draft: Draft, path: KeyPath, depth: int, here: Any) -> None:
    """Say why a path leads nowhere."""
    parent = ".".join(map(str, path[: depth - 1]))
    has = f"a list of {len(here)}: give an index below that" if isinstance(here, list) else "a single value"
    draft.problems.append(Problem(".".join(map(str, path)), f"from --set: {parent} is {has}"))


def _forget_spellings(draft: Draft, path: KeyPath) -> None:
    """Drop other spellings of the field that is about to be set, so that an override always wins."""
    for base, mapping in list(draft.containers()):
        if path[: len(base)] != base or len(path) == len(base):
            continue
        known = spellings(base)
        key = tuple(map(str, path[len(base) :]))
        targets = known.get(key[0], ()) if len(key) == 1 and key[0] in known else (key,)
        for other in [each for each in mapping if each in known and each != key[0]]:
            if any(mine == its[: len(mine)] for its in known[other] for mine in targets):
                draft.forget((*base, other))
        for target in targets if key not in targets else ():
            draft.forget((*base, *target))
