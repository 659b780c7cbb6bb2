"""A sweep's YAML file and `--set` overrides enter, a validated sweep and the notes to print leave.

The file's `run` is a draft of its own, from another file or from the mapping that stands there. Problems of both, of
the knobs, and of what fits together are collected and raised once, each with its line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raylora.errors import Problem, SpecError
from raylora.spec.fields.knobs import AnyKnob
from raylora.spec.fields.run import RunFields
from raylora.spec.fields.sweep import SweepFields
from raylora.spec.reading.aliases import resolve_aliases, spellings
from raylora.spec.reading.check import check_run, note_errors
from raylora.spec.reading.draft import Draft, Origin
from raylora.spec.reading.file_kind import refuse_other_kinds
from raylora.spec.reading.load import read_draft, told_in_order
from raylora.spec.reading.method_names import is_name, meaning, resolve_method
from raylora.spec.reading.overrides import apply_override
from raylora.spec.rules.rule import broken
from raylora.spec.sweeps.knob_text import read_knobs
from raylora.spec.sweeps.overrides import refuse_shadowed, split_overrides
from raylora.spec.sweeps.rules import SWEEP_RULES
from raylora.spec.sweeps.space_check import space_problems
from raylora.spec.sweeps.space_shape import method_names, sets_adapter
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.text.show import printable, show
from raylora.spec.text.yaml_text import KeyPath


@dataclass(frozen=True)
class LoadedSweep:
    """A sweep read from a file.

    Args:
        spec: The sweep.
        notes: Lines to print: other tools' keys that were read or passed over, and what of its run a sweep leaves out.
        path: The file.
    """

    spec: SweepSpec
    notes: tuple[str, ...]
    path: Path


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> LoadedSweep:
    """Read a sweep.

    Args:
        path: YAML file in UTF-8; paths in it, its `run` among them, are relative to the working directory.
        overrides: `key=value` words of `--set`, applied in order; `overrides.py` says which reach the sweep and
            which its run.

    Raises:
        SpecError: A file cannot be read or says something wrong; carries every problem with its line.
    """
    draft = read_draft(path)
    refuse_other_kinds("sweep", draft.values, path)
    return finish(draft, overrides, path)


def finish(draft: Draft, overrides: Sequence[str], path: Path) -> LoadedSweep:
    """Make a sweep of a draft.

    Args:
        draft: What the sweep's file says.
        overrides: Words of `--set`.
        path: The file.

    Raises:
        SpecError: Something is wrong; carries every problem.
    """
    mine, of_run = split_overrides(draft, overrides)
    for override, place in mine:
        apply_override(draft, override, place)
    refuse_shadowed(draft, of_run)
    run, run_is_right = _RunDraft(draft, of_run).check()
    knobs = read_knobs(draft)
    for name, at in method_names(knobs).items():
        draft.note(("space", *at), f"space: adapter: {show(name)} is read as {meaning(name)}")
    sweep = _check_fields(draft, run, knobs)
    refused = {str(path[0]) for path in draft.refused} | (set() if run_is_right else {"run"})
    for path_in_space, words in _space_problems(draft, run, knobs, run_is_right):
        draft.refuse(("space", *path_in_space), words)
        refused.add("space")
    for problem in broken(SWEEP_RULES, sweep, frozenset(refused)):
        draft.refuse(tuple(problem.field.split(".")), problem.message)
    if draft.problems:
        raise told_in_order(draft, path)
    fields = {name: getattr(sweep, name) for name in SweepFields.model_fields}
    return LoadedSweep(SweepSpec.model_validate(fields | {"run": run.model_dump()}), tuple(draft.notes), path)


def _space_problems(
    draft: Draft, run: RunFields, knobs: dict[str, AnyKnob], run_is_right: bool
) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is wrong with the knobs that could be read, though others could not."""
    written = draft.values.get("space")
    unread = frozenset(written if isinstance(written, dict) else ()) - knobs.keys()
    return space_problems(run, knobs, unread, run_is_right=run_is_right)


class _RunDraft:
    """The run of a sweep while it is read."""

    def __init__(self, sweep: Draft, overrides: Sequence[str]) -> None:
        self.sweep, self.overrides = sweep, overrides
        self.file: str | None = None
        self.line = origin.line if (origin := sweep.origin(("run",))) else None

    def check(self) -> tuple[RunFields, bool]:
        """Return the run without whatever is wrong with it, and whether nothing is; that is noted in the sweep's draft."""
        draft = self.read()
        if draft is None:
            return RunFields.model_validate(_ANY_RUN), False
        for override in self.overrides:
            apply_override(draft, override)
        resolve_aliases(draft)
        if is_name(name := draft.values.get("adapter")) and sets_adapter(self.sweep.values.get("space")):
            draft.refuse(
                ("adapter",),
                f"got {name}, whose fields every trial would keep, and the space sets adapter; name it there alone",
            )
        resolve_method(draft)
        run = check_run(draft)
        if run.sample_prompts:
            draft.note(
                ("sample_prompts",),
                "sample_prompts: trials answer none; the winner does when its file is trained, winner.yaml of the report",
            )
        self.sweep.notes += [note if self.file is None else f"{self.file}: {note}" for note in draft.notes]
        self.sweep.problems += [self.told(problem) for problem in draft.problems]
        return run, not draft.problems

    def read(self) -> Draft | None:
        """Return the draft of the file that `run` names, or of the mapping that it is."""
        written = self.sweep.values.get("run")
        if isinstance(written, dict):
            origins = {
                key[1:]: Origin(each.written.removeprefix("run."), each.line)
                for key, each in self.sweep.origins.items()
                if key[:1] == ("run",) and key[1:]
            }
            return Draft(written, origins, refused={key[1:] for key in self.sweep.refused if key[:1] == ("run",)})
        if not isinstance(written, str) or not written:
            got = "missing" if written is None else f"got {show(written)}"
            self.sweep.refuse(("run",), f"{got}; give the path of a run's file, or the run's fields")
            return None
        self.file = written
        try:
            draft = read_draft(Path(written))
            refuse_other_kinds("run", draft.values, Path(written))
            return draft
        except SpecError as error:
            self.sweep.problems += [self.told(problem) for problem in error.problems]
            return None

    def told(self, problem: Problem) -> Problem:
        """Return a problem of the run as one of the sweep."""
        name = f"run.{problem.field}"
        if self.file is None:
            return Problem(name, problem.message, problem.line)
        if problem.field in ("file", "YAML"):
            name = "run"
        if problem.message.startswith("from --set"):
            return Problem(name, problem.message)
        where = "" if problem.line is None else f" line {problem.line}:"
        return Problem(name, f"in {self.file}:{where} {problem.message}", self.line)


def _check_fields(draft: Draft, run: RunFields, knobs: dict[str, AnyKnob]) -> SweepFields:
    """Note what is wrong with the sweep's own fields, and return the sweep that is left without it."""
    _drop_nulls(draft.values)
    for key in [key for key in draft.values if key not in SweepFields.model_fields]:
        draft.refuse((key,), _unknown(key))
    stand_ins: dict[str, Any] = {"run": run, "space": knobs or _ANY_SPACE}
    refused = {str(path[0]) for path in draft.refused}
    values = {key: value for key, value in draft.values.items() if key in _OWN and key not in refused}
    try:
        return SweepFields.model_validate(values | stand_ins)
    except ValidationError as error:
        note_errors(draft, error, SweepFields)
    wrong = {str(path[0]) for path in draft.refused}
    return SweepFields.model_validate({key: value for key, value in values.items() if key not in wrong} | stand_ins)


_OWN = SweepFields.model_fields.keys() - {"run", "space"}
_ANY_RUN: Any = {"base_model": "stand-in", "datasets": [{"path": "stand-in"}]}
_ANY_SPACE: Any = {"seed": {"choice": [0]}}


def _drop_nulls(values: dict[str, Any]) -> None:
    """Take out empty values: a key without a value asks for the default."""
    for holder in (values, values.get("budget")):
        if isinstance(holder, dict):
            for key in [key for key, value in holder.items() if value is None]:
                del holder[key]


def _unknown(key: str) -> str:
    if key in RunFields.model_fields or key in spellings(()):
        return f"no field of a sweep; it belongs to the run: write run: {{{key}: ...}}, or --set {key}=..., or make it a knob of space"
    nearest = difflib.get_close_matches(key, SweepFields.model_fields, n=1, cutoff=0.5)
    return (
        f"unknown key; nearest: {nearest[0]}"
        if nearest
        else f"unknown key; {printable(key)} is near none: see raylora schema sweep"
    )
