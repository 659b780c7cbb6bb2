from __future__ import annotations

import pytest
from mlflow.utils.validation import validate_param_and_metric_name

from raylora.spec.run import RunSpec
from raylora.tracking.params import mlflow_name, params


def spec(**fields: object) -> RunSpec:
    return RunSpec(**({"base_model": "m", "datasets": [{"path": "d.jsonl"}]} | fields))


def test_every_value_is_a_param_under_its_dotted_name():
    found = params(spec(lora_r=8, load_in_4bit=True, lora_target_modules=["q_proj", "v_proj"]))
    assert found["base_model"] == "m"
    assert found["lora_r"] == "8"
    assert found["load_in_4bit"] == "true"
    assert found["lora_target_modules"] == '["q_proj", "v_proj"]'
    assert found["datasets.0.path"] == "d.jsonl"
    assert found["distributed.num_workers"] == "1"


def test_what_was_not_given_is_no_param():
    found = params(spec())
    assert "max_steps" not in found
    assert "sample_prompts" not in found
    assert "datasets.0.columns" not in found


def test_a_long_value_is_cut_to_what_mlflow_takes_and_says_so():
    value = params(spec(chat_template="{{ messages }}" + "x" * 10_000))["chat_template"]
    assert len(value) == 6000
    assert value.endswith("cut, see spec.yaml")


def test_names_are_such_that_mlflow_takes_them():
    columns = {"messages": "a"}
    found = params(spec(datasets=[{"path": "d.jsonl", "columns": columns}]))
    assert all(validate_param_and_metric_name(name) for name in found)


@pytest.mark.parametrize("name", ["loss", "system/cpu", "a b:c-d.e", "50%", "größe", "x*(y)"])
def test_a_name_becomes_one_that_mlflow_takes_and_a_good_one_stays(name: str):
    assert validate_param_and_metric_name(mlflow_name(name))
    if validate_param_and_metric_name(name):
        assert mlflow_name(name) == name
