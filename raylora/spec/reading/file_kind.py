"""Which kind of file was given, a run's or a sweep's, told by keys that only one of them has.

What was read enters, a refusal of the wrong kind leaves. Called by the loaders before they look for unknown keys, and
by the command that checks either kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from raylora.errors import Problem, SpecError
from raylora.spec.reading.aliases import spellings

_RUN_HAS = {"base_model", "datasets"}
_SWEEP_HAS = {"run", "space"}


def is_sweeps(values: Any) -> bool:
    """Return whether only a sweep's file can say this.

    Args:
        values: What a file holds.
    """
    return isinstance(values, dict) and not _SWEEP_HAS.isdisjoint(values)


def is_runs(values: Any) -> bool:
    """Return whether only a run's file can say this; a grid's file has lists where a run names its base.

    Args:
        values: What a file holds.
    """
    if not isinstance(values, dict) or is_sweeps(values):
        return False
    theirs = spellings(())
    found = {ours[0] for key in values for ours in theirs.get(key, ((key,),))} & _RUN_HAS
    return bool(found) and not all(isinstance(value, list) for value in values.values())


def refuse_other_kinds(due: Literal["run", "sweep", "grid"], values: Any, path: Path) -> None:
    """Refuse a file of another kind than the one that is due.

    Args:
        due: The kind.
        values: What the file holds.
        path: The file.

    Raises:
        SpecError: It is a run's or a sweep's; says which command takes it.
    """
    told = None
    if due != "sweep" and is_sweeps(values):
        told = f"this is a sweep's file; look at it with: raylora sweep {path} --plan"
    elif due != "run" and is_runs(values):
        told = (
            f"this is a run's file; start it with: raylora train {path}; a sweep's file has it as `run` beside a "
            f"`space` of knobs, and a grid's file comes second: raylora sweep {path} --grid GRID"
        )
    if told is not None:
        raise SpecError([Problem("file", told)], str(path))
