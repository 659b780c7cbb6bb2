from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from raylora.spec.fields.part import Part
from raylora.spec.fields.run import RunFields
from raylora.spec.pages.schema import json_schema, sweep_json_schema
from raylora.spec.pages.template import commented_config
from raylora.spec.run import RunSpec
from raylora.spec.text.yaml_text import read_yaml
from tests.unit.spec.foreign_files import LLAMA_FACTORY
from tests.unit.spec.specs import LEAST, runs

SCHEMA = Draft202012Validator(json_schema())


def test_it_is_a_schema():
    Draft202012Validator.check_schema(json_schema())


def test_every_field_has_a_description_and_a_default():
    for name, prop in json_schema()["properties"].items():
        assert prop["description"]
        assert "default" in prop or prop.get("deprecated") or name in ("base_model", "datasets")


@settings(deadline=None)
@given(spec=runs)
def test_a_run_fits_it(spec: RunSpec):
    SCHEMA.validate(spec.model_dump(mode="json"))


@pytest.mark.parametrize("text", [LEAST, commented_config("org/model", "rows.jsonl")])
def test_a_configuration_fits_it(text: str):
    SCHEMA.validate(read_yaml(text).values)


def test_another_tools_required_keys_fit_it():
    keys = {"model_name_or_path", "dataset", "lora_rank"}
    SCHEMA.validate({key: value for key, value in yaml.safe_load(LLAMA_FACTORY).items() if key in keys})


@pytest.mark.parametrize(
    "line", ["lora_rr: 8", "lora_r: 0", "lora_r: x", "distributed: {strategy: fdsp}", "datasets: []", "dtype: float16"]
)
def test_what_is_wrong_does_not_fit_it(line: str):
    values = read_yaml(LEAST).values | read_yaml(line).values
    assert not SCHEMA.is_valid(values)


def test_required_fields_are_required():
    assert not SCHEMA.is_valid({"base_model": "a"})
    assert not SCHEMA.is_valid({"datasets": [{"path": "a"}]})


def test_parts_are_frozen_and_closed():
    parts = [part for part in Part.__subclasses__() if part.__module__.startswith("raylora")]
    assert len(parts) >= 8
    assert all(part.model_config.get("frozen") and part.model_config.get("extra") == "forbid" for part in parts)
    assert all(field.description for part in (*parts, RunFields) for field in part.model_fields.values())


SWEEP_SCHEMA = Draft202012Validator(sweep_json_schema())
SWEEP = {"run": "run.yaml", "space": {"lora_r": {"choice": [8, 16]}}}
REPOSITORY = Path(__file__).parents[3]


def test_that_of_a_sweep_is_a_schema():
    Draft202012Validator.check_schema(sweep_json_schema())
    assert all(prop["description"] for prop in sweep_json_schema()["properties"].values())


@pytest.mark.parametrize("path", sorted((REPOSITORY / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_fits_it(path: Path):
    SWEEP_SCHEMA.validate(read_yaml(path.read_text(encoding="utf-8")).values)


def test_a_run_in_place_fits_it():
    SWEEP_SCHEMA.validate(SWEEP | {"run": read_yaml(LEAST).values | {"lora_rank": 8}})


@pytest.mark.parametrize(
    "line",
    ["run: {lora_r: 8}", "num_trials: 0", "space: {}", "space: {lora_r: {choise: [8]}}", "searcher: tpe", "lora_r: 8"],
)
def test_a_wrong_sweep_does_not_fit_it(line: str):
    assert not SWEEP_SCHEMA.is_valid(SWEEP | read_yaml(line).values)
