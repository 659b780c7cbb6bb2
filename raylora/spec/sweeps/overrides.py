"""Which `--set` words of a sweep reach the sweep's own fields, and which its run. `load.py` calls it.

A name says it: `num_trials=4` is the sweep's, `max_steps=10` the run's. `run.` and `sweep.` before a name say it where
both have it (`seed`).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from raylora.errors import Problem
from raylora.spec.fields.knobs import KINDS
from raylora.spec.fields.run import RunFields
from raylora.spec.fields.sweep import SweepFields
from raylora.spec.reading.aliases import spellings
from raylora.spec.reading.draft import Draft
from raylora.spec.text.show import printable
from raylora.spec.text.yaml_text import KeyPath

_OF_SWEEP = SweepFields.model_fields.keys()
_OF_RUN = RunFields.model_fields.keys() | spellings(()).keys()


def split_overrides(draft: Draft, overrides: Sequence[str]) -> tuple[list[tuple[str, KeyPath | None]], list[str]]:
    """Tell overrides of a sweep from those of its run.

    Args:
        draft: The sweep's draft, in which names that belong to neither, or to both, are noted. Setting the run's
            `max_steps` takes `budget.steps` out of it: a word of the command line wins over the file.
        overrides: `key=value` words.

    Returns:
        The sweep's, each with the path of a knob where it sets one; and the run's, in the run's own names.
    """
    mine: list[tuple[str, KeyPath | None]] = []
    of_run: list[str] = []
    for override in overrides:
        written, equals, text = override.partition("=")
        first, _, rest = written.strip().partition(".")
        if not equals or first == "":
            mine.append((override, None))  # apply_override says what is wrong with it
        elif first == "run" and rest:
            of_run.append(f"{rest}={text}")
        elif first == "sweep" and rest:
            mine.append((f"{rest}={text}", _knob(rest)))
        elif first in _OF_SWEEP and first in _OF_RUN:
            draft.problems.append(
                Problem(
                    first, f"from --set: both the sweep and its run have it; write run.{first}=... or sweep.{first}=..."
                )
            )
        elif first in _OF_SWEEP:
            mine.append((override, _knob(written.strip())))
        elif first in _OF_RUN:
            of_run.append(override)
        else:
            draft.problems.append(Problem(written.strip(), f"from --set: {_unknown(first)}"))
    if any(override.partition("=")[0].strip() == "max_steps" for override in of_run):
        draft.forget(("budget", "steps"))
        if draft.values.get("budget") == {}:
            draft.forget(("budget",))
    return mine, of_run


def _knob(written: str) -> KeyPath | None:
    """Return the path of a knob: its name may have dots of its own."""
    first, _, name = written.partition(".")
    if first != "space" or not name:
        return None
    holder, _, kind = name.rpartition(".")
    return ("space", holder, kind) if holder and kind in KINDS else ("space", name)


def refuse_shadowed(draft: Draft, of_run: Sequence[str]) -> None:
    """Note the run's overrides that no trial would see, since a knob sets their field.

    Args:
        draft: Of the sweep; takes up the problems.
        of_run: Overrides as `split_overrides` returned them.
    """
    space = draft.values.get("space")
    for name in (override.partition("=")[0].strip() for override in of_run):
        if isinstance(space, dict) and space.get(name) is not None:
            message = (
                f"from --set: it is a knob of the space, which sets it in every trial; "
                f"write space.{name}=... or, to take the knob out, space.{name}="
            )
            draft.problems.append(Problem(name, message))


def _unknown(name: str) -> str:
    sweep, run = (difflib.get_close_matches(name, known, n=1, cutoff=0.5) for known in (_OF_SWEEP, _OF_RUN))
    near = [f"{word} of the {whose}" for found, whose in ((sweep, "sweep"), (run, "run")) for word in found]
    told = f"nearest: {' or '.join(near)}" if near else f"{printable(name)} is near none of a sweep's or a run's"
    return f"unknown field; {told}"
