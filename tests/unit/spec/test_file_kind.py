"""A file of the wrong kind is told in one problem, and not as a file with every key wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raylora.errors import SpecError
from raylora.spec.reading.file_kind import is_runs, is_sweeps
from raylora.spec.reading.load import load_spec
from raylora.spec.sweeps.load import load_sweep

EXAMPLES = sorted(Path("examples").glob("*.yaml"))
SWEEPS = sorted(Path("sweeps").glob("*.yaml"))


@pytest.mark.parametrize(
    ("load", "path", "command"),
    [(load_spec, path, f"raylora sweep {path} --plan") for path in SWEEPS]
    + [(load_sweep, path, f"raylora train {path}") for path in EXAMPLES],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_a_file_of_the_other_kind_is_told_as_such(load: Callable[[Path], object], path: Path, command: str):
    with pytest.raises(SpecError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.field == "file"
    assert command in problem.message


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"base_model": "m"}, "run"),
        ({"model_name_or_path": "m", "learning_rate": 1}, "run"),
        ({"run": "run.yaml"}, "sweep"),
        ({"space": {}, "base_model": "m"}, "sweep"),
        ({"base_model": ["m", "n"], "lora_r": [4, 8]}, "neither"),
        ({"learning_rate": 1}, "neither"),
        ({}, "neither"),
        (None, "neither"),
        (["a"], "neither"),
    ],
)
def test_kinds_are_told_by_their_keys(values: object, kind: str):
    assert (is_runs(values), is_sweeps(values)) == (kind == "run", kind == "sweep")
