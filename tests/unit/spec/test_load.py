from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.errors import SpecError
from raylora.spec.fields.run import RunFields
from raylora.spec.reading.load import load_spec
from raylora.spec.reading.other_tools import RUN_ALIASES
from raylora.spec.run import RunSpec
from raylora.spec.text.yaml_text import write_yaml
from tests.unit.spec.specs import LEAST, load_text, problems_of, runs, words

# A file that is written again for every example may stay from the last one.
per_example = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WRONG = """\
base_modell: org/model
datasets:
  - path: rows.jsonl
    weight: -1
  - pth: more.jsonl
learning_rate: fast
lora_rank: 0
num_workers: 2
load_in_4bit: true
load_in_8bit: true
distributed:
  strategy: fdsp
  seed: 1
seed: 1
seed: 2
lora_alpha: .inf
lr_scheduler: cosin
run_name: 5
zzzzzzzzzz: 1
"""


def test_a_short_file_gets_the_defaults(tmp_path: Path):
    loaded = load_text(tmp_path, LEAST)
    assert loaded.spec == RunSpec(base_model="org/model", datasets=({"path": "rows.jsonl"},))  # type: ignore[arg-type]
    assert loaded.notes == ()
    assert loaded.path == tmp_path / "run.yaml"


@pytest.mark.parametrize(
    ("word", "meant"), [("yes", "true"), ("On", "true"), ("1", "true"), ("no", "false"), ("off", "false")]
)
def test_only_true_and_false_are_true_and_false(tmp_path: Path, word: str, meant: str):
    said = f"allowed: true or false; write {meant}"
    for key in ("load_in_4bit", "distributed.cpu_offload"):
        (problem,) = problems_of(tmp_path, LEAST, [f"{key}={word}"])
        assert problem.endswith(said), problem


def test_the_words_of_other_yaml_are_text_where_text_is_due(tmp_path: Path):
    spec = load_text(tmp_path, LEAST + "run_name: no\nlora_target_modules: [on, off]\n").spec
    assert (spec.run_name, spec.lora_target_modules) == ("no", ("on", "off"))


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path: Path):
    assert problems_of(tmp_path, WRONG) == [
        "base_model: missing; give it: hub id, local folder, `.gguf` file, `package:<package>/<file>` inside an "
        "installed Python package, or `s3://` folder",
        "line 1: base_modell: unknown key; nearest: base_model",
        "line 4: datasets.0.weight: got -1; allowed: a number above 0",
        "line 5: datasets.1.path: missing; give it: hub id, or a file, folder or glob, local or `s3://`: JSONL, JSON, "
        "CSV, Parquet or Arrow by its ending",
        "line 5: datasets.1.pth: unknown key; nearest: path",
        "line 6: learning_rate: got 'fast'; allowed: a number above 0",
        "line 7: lora_r: written lora_rank: got 0; allowed: a whole number of at least 1",
        "line 8: num_workers: no key of this level; it belongs to distributed: write distributed.num_workers",
        "line 10: load_in_8bit: both load_in_8bit and load_in_4bit are true; a base is held in one of them: remove "
        "the other",
        "line 12: distributed.strategy: got 'fdsp'; allowed: ddp, fsdp or deepspeed; nearest: fsdp",
        "line 13: distributed.seed: no key of distributed; move it to the left margin",
        "line 15: seed: given twice, first in line 14; remove one",
        "line 16: lora_alpha: got inf; allowed: a finite number above 0",
        "line 17: lr_scheduler: got 'cosin'; allowed: linear, cosine, constant or warmup_stable_decay; nearest: cosine",
        "line 18: run_name: got 5; allowed: text; put it in quotes",
        "line 19: zzzzzzzzzz: unknown key; zzzzzzzzzz is near none of those known here: see raylora schema",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lora_r: true", "lora_r: got true; allowed: a whole number of at least 1"),
        ("lora_r: 8.5", "lora_r: got 8.5; allowed: a whole number"),
        ("lora_dropout: 1", "lora_dropout: got 1; allowed: a number of at least 0 and below 1"),
        ("lora_alpha: .nan", "lora_alpha: got nan; allowed: a finite number above 0"),
        ("seed: 4294967296", "allowed: a whole number of at least 0 and below 4,294,967,296"),
        ("lora_target_modules: []", "lora_target_modules: got []; allowed: text or a list of at least one text"),
        ("lora_target_modules: [q_proj, 1]", "lora_target_modules: got ['q_proj', 1]; allowed: text or a list"),
        ("sample_prompts: hi", "sample_prompts: got 'hi'; allowed: a list of text; write [one, two]"),
        ("sample_prompts: [hi, 3]", "sample_prompts.1: got 3; allowed: a list of text"),
        ("test_datasets: rows.jsonl", "allowed: a list of group of path, type, split"),
        ("test_datasets: [{path: a, pth: b}]", "test_datasets.0.pth: unknown key; nearest: path"),
        ("lora_rnk: 8", "lora_rnk: unknown key; nearest: lora_rank, which is lora_r here"),
        ("distributed: fsdp", "distributed: got 'fsdp'; allowed: group of strategy, zero_stage,"),
        ("distributed: {zero_stage: true}", "distributed.zero_stage: got true; allowed: 1, 2 or 3"),
        ("distributed: {gpus_per_worker: 2}", "distributed.gpus_per_worker: got 2; allowed: 0 or 1"),
        ("distributed: {resources_per_worker: {a: 0}}", "allowed: names, each with a number above 0"),
        ("dtype: float16", "dtype: float16 needs loss scaling, which raylora does not do; use dtype: bfloat16"),
        ('run_name: "\\ud800"', "run_name: '\\ud800' is no text: it holds half a character"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(tmp_path: Path, line: str, said: str):
    (problem,) = problems_of(tmp_path, LEAST + line)
    assert problem.startswith("line 3: ")
    assert said in problem


@pytest.mark.parametrize(
    "line",
    [
        "tracking: {uri: 'https://me:hunter2@mlflow.example'}",
        "tracking: {uri: 'https://hunter2@mlflow.example'}",
        "tracking: {uri: 'postgresql://me:hunter2@db/mlflow'}",
        "tracking: {uri: 'postgresql://me:a/hunter2@db/mlflow'}",
        "tracking: {uri: 'postgresql://db/mlflow?user=me&password=hunter2'}",
        "storage: {uri: 's3://key:hunter2@bucket/prefix'}",
        "test_datasets: [{path: 's3://key:hunter2@bucket/rows.jsonl'}]",
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(tmp_path: Path, line: str):
    (problem,) = problems_of(tmp_path, LEAST + line)
    assert "set it in the environment" in problem
    assert "hunter2" not in problem


def test_a_user_without_a_password_is_no_secret(tmp_path: Path):
    assert load_text(tmp_path, LEAST + "tracking: {uri: postgresql://me@db/mlflow}").spec.tracking.uri
    assert load_text(tmp_path, LEAST + "tracking: {uri: 'http://host:5000/team@here'}").spec.tracking.uri


def test_a_key_without_a_value_takes_its_default(tmp_path: Path):
    empty = "".join(f"{name}:\n" for name in RunFields.model_fields if name not in ("base_model", "datasets"))
    assert load_text(tmp_path, LEAST + empty).spec == load_text(tmp_path, LEAST).spec


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- a\n- b\n", "got ['a', 'b']; a configuration is a list of `key: value` lines"),
        (b"a: [1", "line 1: YAML"),
        (b"base_model: a\nrun_name: \xff\n", "line 2: YAML: byte 0xff is not UTF-8"),
        (b"", "base_model: missing"),
    ],
)
def test_a_file_that_is_no_configuration_says_so(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["absent.yaml", ".", "a\0b"])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, name: str):
    with pytest.raises(SpecError, match="file: "):
        load_spec(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path):
    assert load_text(tmp_path, "\ufeff" + LEAST).spec.base_model == "org/model"


@settings(per_example, max_examples=50)
@given(spec=runs)
def test_a_dumped_run_is_read_back_equal(tmp_path: Path, spec: RunSpec):
    loaded = load_text(tmp_path, write_yaml(spec.model_dump(mode="json")))
    assert loaded.spec == spec
    assert loaded.spec.digest == spec.digest
    assert loaded.notes == ()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
known_keys = st.sampled_from([*RunFields.model_fields, *RUN_ALIASES, "report_to", "template", "plot_loss"])


@per_example
@given(values=st.dictionaries(known_keys | words, anything, max_size=8))
def test_wrong_values_raise_nothing_but_spec_error(tmp_path: Path, values: dict[str, Any]):
    try:
        load_text(tmp_path, write_yaml(values))
    except SpecError as error:
        str(error).encode()
        assert error.problems


@per_example
@given(text=st.text(st.characters(codec="utf-8")) | st.just(LEAST), override=st.text(), key=known_keys)
def test_wrong_texts_raise_nothing_but_spec_error(tmp_path: Path, text: str, override: str, key: str):
    try:
        load_text(tmp_path, text, [override, f"{key}={override}", f"{key}.{override}=1", f"datasets.0={override}"])
    except SpecError as error:
        assert error.problems
