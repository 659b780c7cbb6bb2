"""A program gets from `raylora.api` what a person is shown by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora import api
from raylora.errors import ModelError
from tests.unit.cli.conftest import Raylora


def test_a_program_predicts_and_inspects_a_run_by_its_spec_alone(raylora: Raylora, run_yaml: Path):
    spec = api.load_spec(run_yaml).spec
    assert isinstance(spec, api.RunSpec)
    assert api.estimate(spec).to_json() == raylora("estimate", run_yaml, "--json").json
    told = raylora("inspect", run_yaml, "--json").json
    seen = api.inspect(spec)
    assert seen.trainable_parameters == told["trainable_parameters"] > 0
    assert [row.pattern for row in seen.rows] == [row["pattern"] for row in told["modules"]]


def test_a_wrong_target_still_shows_what_there_is(run_yaml: Path):
    seen = api.inspect(api.load_spec(run_yaml, ["lora_target_modules=[q_prj]"]).spec)
    assert any(row.pattern.endswith("q_proj") for row in seen.rows)
    with pytest.raises(ModelError, match="nearest: q_proj"):
        seen.check()


def test_a_program_names_a_sweep_by_its_type(run_yaml: Path, tmp_path: Path):
    path = tmp_path / "sweep.yaml"
    path.write_text(f"run: {run_yaml}\nnum_trials: 3\nspace: {{lora_r: {{choice: [4, 8]}}}}\n")
    assert isinstance(api.load_sweep(path, ["max_steps=20"]).spec, api.SweepSpec)
