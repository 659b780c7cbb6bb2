from __future__ import annotations

from pathlib import Path

from raylora.spec.load import load_spec
from raylora.spec.run import RunSpec
from raylora.sweep.asked import asked_of, run_yaml, with_fields
from tests.unit.sweep.made_sweeps import BASE, sweep

CONFIG = {"lora_r": 4, "lora_alpha": 8.0, "lora_target_modules": ["q_proj"], "distributed.num_workers": 2}


def test_fields_are_set_by_their_dotted_names_and_the_base_stays():
    base = {"a": {"b": 1, "c": 2}, "rows": [{"path": "x"}], "gone": 1, "none": None}
    config = {"a.b": 3, "new.deep.er": 4, "rows.0.path": "y", "gone": None, "none.x": 5}
    assert with_fields(base, config) == {
        "a": {"b": 3, "c": 2}, "rows": [{"path": "y"}], "new": {"deep": {"er": 4}}, "none": {"x": 5},
    }  # fmt: skip
    assert base == {"a": {"b": 1, "c": 2}, "rows": [{"path": "x"}], "gone": 1, "none": None}


def test_the_configuration_of_a_trial_runs_as_it_stands(tmp_path: Path):
    (tmp_path / "winner.yaml").write_text(run_yaml(RunSpec.model_validate(BASE).model_dump(mode="json"), CONFIG))
    loaded = load_spec(tmp_path / "winner.yaml")
    assert loaded.spec == RunSpec.model_validate(with_fields(BASE, CONFIG))
    assert (loaded.spec.lora_r, loaded.spec.distributed.num_workers) == (4, 2)
    assert "adam_beta1" not in (tmp_path / "winner.yaml").read_text()


def test_the_sweeps_budget_is_the_runs():
    base = asked_of(sweep([], budget={"steps": 7, "tokens": None}, report_steps=3)).base
    assert (base["max_steps"], base["eval_steps"]) == (7, 3)
    no_rows = {key: value for key, value in BASE.items() if key != "val_set_size"}
    assert "eval_steps" not in asked_of(sweep([], run=no_rows, report_steps=3)).base
    assert asked_of(sweep([])).base == BASE


def test_fields_of_another_version_are_shown_as_they_were_asked():
    assert "of_the_future: 1" in run_yaml(BASE | {"of_the_future": 1}, {"lora_r": 4})
