from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raylora.spec.reading.load import load_spec
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.space import resolve
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec
from raylora.sweep.reporting.asked import aim_of, drawn_by_ratio, run_yaml, with_fields
from tests.unit.sweep.made_sweeps import BASE, sweep, trial


def test_fields_are_set_by_their_dotted_names_and_the_base_stays():
    base = {"a": {"b": 1, "c": 2}, "rows": [{"path": "x"}], "gone": 1, "none": None}
    config = {"a.b": 3, "new.deep.er": 4, "rows.0.path": "y", "gone": None, "none.x": 5}
    assert with_fields(base, config) == {
        "a": {"b": 3, "c": 2}, "rows": [{"path": "y"}], "new": {"deep": {"er": 4}}, "none": {"x": 5},
    }  # fmt: skip
    assert base == {"a": {"b": 1, "c": 2}, "rows": [{"path": "x"}], "gone": 1, "none": None}


def asked(space: dict[str, Any], run: dict[str, Any] | None = None, **fields: Any) -> SweepSpec:
    return SweepSpec.model_validate({"run": BASE | (run or {}), "space": space, "num_trials": 4} | fields)


def written(folder: Path, spec: SweepSpec, sampled: dict[str, Any], **fields: Any) -> tuple[RunSpec, str]:
    """The winner's file of a trial, read as `raylora train` reads it, and its text."""
    record = sweep([]).model_copy(update={"spec": spec.model_dump(mode="json")})
    text = run_yaml(record, trial(0, 1.0, config=resolve(spec.space, sampled), **fields))
    (folder / "winner.yaml").write_text(text)
    return load_spec(folder / "winner.yaml").spec, text


@pytest.mark.parametrize(
    ("space", "sampled", "fields"),
    [
        ({"lora_r": {"choice": [4]}, "lora_alpha": {"ratio": 2, "of": "lora_r"}}, {"lora_r": 4}, {}),
        ({"lora_target_modules": {"choice": [["q_proj"]]}}, {"lora_target_modules": ["q_proj"]}, {}),
        ({"micro_batch_size": {"choice": [2]}}, {"micro_batch_size": 2}, {}),
        ({"distributed.num_workers": {"choice": [2]}}, {"distributed.num_workers": 2}, {}),
        ({"seed": {"choice": [7]}}, {"seed": 7}, {}),
        ({"lora_r": {"choice": [4]}}, {"lora_r": 4}, {"repeats": 3, "repeat": 2}),
        ({"max_steps": {"choice": [50]}}, {"max_steps": 50}, {"budget": {"steps": 20}, "report_steps": 3}),
    ],
)
def test_the_winners_file_is_the_run_that_the_trial_was(
    tmp_path: Path, space: dict[str, Any], sampled: dict[str, Any], fields: dict[str, Any]
):
    repeat = fields.pop("repeat", 0)
    spec = asked(space, {"micro_batch_size": 1, "gradient_accumulation_steps": 4}, **fields)
    run, text = written(tmp_path, spec, sampled, repeat=repeat)
    assert run == trial_spec(spec, sampled, repeat)
    assert run.rows_per_step == 4
    assert "adam_beta1" not in text


def test_the_winners_file_has_every_knob_also_at_its_default(tmp_path: Path):
    plain = RunSpec.model_validate(BASE)
    knobs = ("lora_r", "lora_dropout", "distributed.num_workers", "datasets.0.weight")
    values = (plain.lora_r, plain.lora_dropout, plain.distributed.num_workers, plain.datasets[0].weight)
    sampled = dict(zip(knobs, values, strict=True))
    spec = asked({name: {"choice": [value]} for name, value in sampled.items()})
    run, text = written(tmp_path, spec, sampled)
    assert run == trial_spec(spec, sampled)
    read = yaml.safe_load(text)
    assert (read["lora_r"], read["lora_dropout"]) == (plain.lora_r, plain.lora_dropout)
    assert (read["distributed"], read["datasets"][0]["weight"]) == ({"num_workers": 1}, 1.0)
    assert "lora_alpha" not in read


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"steps": 12, "tokens": 1010}, 12),
        ({"steps": 6, "tokens": 500, "status": "stopped"}, 12),
        ({"steps": 80, "tokens": 900}, 80),
    ],
    ids=["ended by its tokens", "stopped half-way", "ended by its own steps"],
)
def test_a_budget_in_tokens_is_told_by_the_steps_that_take_them(tmp_path: Path, fields: dict[str, Any], steps: int):
    spec = asked({"lora_r": {"choice": [4]}}, budget={"tokens": 1000})
    run, text = written(tmp_path, spec, {"lora_r": 4}, **fields)
    assert run == trial_spec(spec, {"lora_r": 4}).model_copy(update={"max_steps": steps})
    assert ("budget: {tokens: 1000}" in text) == (steps == 12)


def test_the_sweeps_budget_is_the_runs():
    base = aim_of(sweep([], budget={"steps": 7, "tokens": None}, report_steps=3)).base
    assert (base["max_steps"], base["eval_steps"]) == (7, 3)
    no_rows = {key: value for key, value in BASE.items() if key != "val_set_size"}
    assert "eval_steps" not in aim_of(sweep([], run=no_rows, report_steps=3)).base
    assert aim_of(sweep([])).base == BASE


def test_fields_of_another_version_are_shown_as_they_were_asked():
    text = run_yaml(sweep([], run=BASE | {"of_the_future": 1}), trial(0, 1.0, config={"lora_r": 4}))
    assert "of_the_future: 1" in text and "lora_r: 4" in text and text.startswith("# As it was asked")


def test_knobs_that_are_drawn_by_orders_of_magnitude():
    space = {"learning_rate": {"loguniform": [1e-5, 1e-3]}, "lora_r": {"choice": [8, 16]}}
    assert drawn_by_ratio(sweep([], space=asked(space).model_dump(mode="json")["space"])) == {"learning_rate"}
    assert drawn_by_ratio(sweep([])) == frozenset()
