from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.spec.text.yaml_text import write_yaml
from tests.unit.spec.specs import LEAST, amounts, counts, load_text, problems_of, shares, words


def value_at(spec: Any, path: str) -> Any:
    for part in path.split("."):
        spec = spec[int(part)] if part.isdigit() else spec[part] if isinstance(spec, dict) else getattr(spec, part)
    return spec


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("lora_r=8", "lora_r", 8),
        ("learning_rate=1e-5", "learning_rate", 1e-5),
        ("lora_target_modules=[q_proj, v_proj]", "lora_target_modules", ("q_proj", "v_proj")),
        ("distributed.num_workers=4", "distributed.num_workers", 4),
        ("distributed={strategy: fsdp}", "distributed.strategy", "fsdp"),
        ("datasets.0.path=other.csv", "datasets.0.path", "other.csv"),
        ("datasets.0.columns={messages: talk}", "datasets.0.columns", {"messages": "talk"}),
        ("datasets.0.columns.messages=talk", "datasets.0.columns.messages", "talk"),
        ("base_model=s3://bucket/a=b", "base_model", "s3://bucket/a=b"),
        ("run_name='8'", "run_name", "8"),
        ("lora_rank=4", "lora_r", 4),
        ("output_dir=out", "storage.uri", "out"),
        ("quantization_bit=8", "load_in_8bit", True),
    ],
)
def test_an_override_sets_its_field(tmp_path: Path, override: str, path: str, value: Any):
    assert value_at(load_text(tmp_path, LEAST, [override]).spec, path) == value


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.fixed_dictionaries(
        {"lora_r": counts, "lora_alpha": amounts, "lora_dropout": shares, "run_name": words, "seed": st.integers(0, 9)}
    )
)
def test_an_override_is_worth_the_same_line_in_the_file(tmp_path: Path, values: dict[str, Any]):
    overrides = [f"{key}={write_yaml([value]).removeprefix('- ')}" for key, value in values.items()]
    assert load_text(tmp_path, LEAST, overrides).spec == load_text(tmp_path, LEAST + write_yaml(values)).spec


@pytest.mark.parametrize(
    ("line", "override", "path", "value"),
    [
        ("lora_r: 2", "lora_r=4", "lora_r", 4),
        ("lora_rank: 2", "lora_r=4", "lora_r", 4),
        ("lora_r: 2", "lora_rank=4", "lora_r", 4),
        ("r: 2", "lora_rank=4", "lora_r", 4),
        ("quantization_bit: 4", "load_in_4bit=false", "quantization", "none"),
        ("quantization_bit: 4", "load_in_8bit=true", "quantization", "int8"),
        ("output_dir: a", "storage.uri=b", "storage.uri", "b"),
        ("storage: {uri: a, keep_checkpoints: 7}", "output_dir=b", "storage.uri", "b"),
        ("storage: {uri: a, keep_checkpoints: 7}", "output_dir=b", "storage.keep_checkpoints", 7),
        ("output_dir: a", "storage={keep_checkpoints: 5}", "storage.uri", None),
        ("lora_r: 2", "lora_r=", "lora_r", 16),
        ("lora_rank: 2", "lora_r=null", "lora_r", 16),
        ("bf16: true", "dtype=float32", "dtype", "float32"),
    ],
)
def test_an_override_wins_whatever_the_spelling(tmp_path: Path, line: str, override: str, path: str, value: Any):
    assert value_at(load_text(tmp_path, LEAST + line, [override]).spec, path) == value


def test_an_override_leaves_the_other_dataset_alone(tmp_path: Path):
    text = "base_model: a\ndatasets: [{path: a, field_messages: x}, {path: b, field_messages: y}]"
    spec = load_text(tmp_path, text, ["datasets.1.columns.messages=z"]).spec
    assert [dataset.columns for dataset in spec.datasets] == [{"messages": "x"}, {"messages": "z"}]


def test_the_last_override_of_a_field_counts(tmp_path: Path):
    assert load_text(tmp_path, LEAST, ["lora_r=4", "lora_rank=8"]).spec.lora_r == 8


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("lora_r", "--set: got 'lora_r'; allowed: key=value, such as lora_r=8"),
        ("=3", "--set: got '=3'; allowed: key=value, such as lora_r=8"),
        ("a..b=3", "--set: got 'a..b=3'; allowed: key=value, such as lora_r=8"),
        ("lora_r=0", "lora_r: from --set: got 0; allowed: a whole number of at least 1"),
        ("lora_rank=0", "lora_r: from --set: written lora_rank: got 0; allowed: a whole number of at least 1"),
        ("lora_s=1", "lora_s: from --set: unknown key; nearest: lora_r"),
        ("distributed.workers=1", "distributed.workers: from --set: unknown key; nearest: num_workers"),
        ("base_model.x=1", "base_model.x: from --set: base_model is a single value"),
        ("datasets.1.path=x", "datasets.1.path: from --set: datasets is a list of 1: give an index below that"),
        ("datasets.one=x", "datasets.one: from --set: datasets is a list of 1: give an index below that"),
        ("load_in_8bit=true", None),
    ],
)
def test_a_wrong_override_says_so(tmp_path: Path, override: str, problem: str | None):
    text = LEAST + "load_in_4bit: true\n"
    (said,) = problems_of(tmp_path, text, [override])
    assert said == problem or (problem is None and said.startswith("load_in_8bit: from --set: both"))


def test_an_override_that_is_no_yaml_says_how_to_quote(tmp_path: Path):
    (problem,) = problems_of(tmp_path, LEAST, ["chat_template={{ messages }}"])
    assert problem.startswith("chat_template: from --set: ")
    assert "--set 'key=\"value\"'" in problem
