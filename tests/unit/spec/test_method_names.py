"""Names of methods in the place of a kind of adapter: read as the fields that make them, in a run and in a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from raylora.spec.fields.adapter import AdapterFields
from raylora.spec.pages.reference import configuration_markdown
from raylora.spec.pages.schema import json_schema, sweep_json_schema
from raylora.spec.pages.template import commented_config
from raylora.spec.reading.aliases import DEFAULTS_NOTE
from raylora.spec.reading.method_names import METHODS
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.axolotl_grid import grid_sweep
from raylora.spec.sweeps.space import configurations
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec
from raylora.spec.text.yaml_text import read_yaml
from tests.unit.spec import sweep_texts
from tests.unit.spec.specs import LEAST, load_text, problems_of

IN_FIELDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "loraplus": {"loraplus_lr_ratio": 16},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "eva": {"init_lora_weights": "eva"},
    "loftq": {"init_lora_weights": "loftq", "load_in_4bit": True},
    "galore": {"adapter": "full", "optimizer": "galore_adamw"},
}
QUANTIZED = {"loftq": "load_in_4bit: true\n"}
RUN = "run: {base_model: org/model, datasets: [{path: rows.jsonl}], val_set_size: 0.1, max_steps: 50%s}\n"


def spec_of(**fields: Any) -> RunSpec:
    return RunSpec.model_validate({"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}]} | fields)


@pytest.mark.parametrize("name", IN_FIELDS)
def test_a_name_is_read_as_the_fields_that_make_the_method(tmp_path: Path, name: str):
    loaded = load_text(tmp_path, LEAST + QUANTIZED.get(name, "") + f"adapter: {name}")
    assert loaded.spec == spec_of(**IN_FIELDS[name])
    (note,) = loaded.notes
    assert f"adapter: '{name}' is read as adapter: " in note
    assert set(IN_FIELDS) == set(METHODS)


def test_the_note_says_what_was_read_and_why(tmp_path: Path):
    (note,) = load_text(tmp_path, LEAST + "adapter: loraplus").notes
    assert note == "line 3: adapter: 'loraplus' is read as adapter: 'lora', loraplus_lr_ratio: 16 (its paper's advice)"
    (note,) = load_text(tmp_path, LEAST, ["adapter=dora"]).notes
    assert note == "--set: adapter: 'dora' is read as adapter: 'lora', use_dora: true"
    assert DEFAULTS_NOTE not in (note,), "it is no key of another tool"


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ("adapter: dora\nuse_dora: true\nuse_rslora: true", {"use_dora": True, "use_rslora": True}),
        ("adapter: loraplus\nloraplus_lr_ratio: 4", {"loraplus_lr_ratio": 4}),
        ("adapter: pissa\ninit_lora_weights: pissa_niter_4", {"init_lora_weights": "pissa_niter_4"}),
        ("adapter: rslora\npeft_use_dora: true", {"use_dora": True, "use_rslora": True}),
        ("adapter: dora\nuse_dora:", {"use_dora": True}),
        ("finetuning_type: dora", {"use_dora": True}),
    ],
)
def test_what_agrees_with_a_name_stays(tmp_path: Path, lines: str, fields: dict[str, Any]):
    assert load_text(tmp_path, LEAST + lines).spec == spec_of(**fields)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            "use_dora: false\nadapter: dora",
            "line 4: adapter: got dora, which is use_dora: true, with use_dora: false beside it; remove one of them",
        ),
        (
            "adapter: loraplus\nloraplus_lr_ratio: 1",
            "line 3: adapter: got loraplus, which is loraplus_lr_ratio: 16, with loraplus_lr_ratio: 1 beside it; "
            "remove one of them",
        ),
        (
            "adapter: olora\ninit_lora_weights: pissa",
            "line 3: adapter: got olora, which is init_lora_weights: 'olora', with init_lora_weights: 'pissa' beside "
            "it; remove one of them",
        ),
        (
            "adapter: galore\noptimizer: adamw_torch",
            "line 3: adapter: got galore, which is optimizer: 'galore_adamw', with optimizer: 'adamw_torch' beside it; "
            "remove one of them",
        ),
    ],
)
def test_a_field_that_says_otherwise_is_refused_with_both_names(tmp_path: Path, lines: str, problem: str):
    assert problems_of(tmp_path, LEAST + lines) == [problem]


def test_what_the_fields_break_is_told_where_the_name_was_written(tmp_path: Path):
    (problem,) = problems_of(tmp_path, LEAST + "adapter: loftq")
    assert problem.startswith("line 3: init_lora_weights: written adapter: got loftq, which makes up for")


def test_a_name_that_there_is_not_has_a_nearest(tmp_path: Path):
    (problem,) = problems_of(tmp_path, LEAST + "adapter: dorra")
    assert problem.endswith("got 'dorra'; allowed: lora, vera, adalora or full; nearest: dora")


def test_a_run_of_a_sweep_may_name_its_method(tmp_path: Path):
    loaded = sweep_texts.load_text(tmp_path, RUN % ", adapter: dora" + sweep_texts.REST)
    assert loaded.spec.run.use_dora
    assert loaded.notes == ("line 1: adapter: 'dora' is read as adapter: 'lora', use_dora: true",)


def test_trials_are_told_apart_by_the_names_of_their_methods(tmp_path: Path):
    space = "searcher: grid\nspace: {adapter: {choice: [lora, dora, rslora, vera]}}"
    loaded = sweep_texts.load_text(tmp_path, RUN % "" + space)
    assert "line 3: space: adapter: 'dora' is read as adapter: 'lora', use_dora: true" in loaded.notes
    drawn = list(configurations(loaded.spec.space))
    assert [each["adapter"] for each in drawn] == ["lora", "dora", "rslora", "vera"]
    found = [trial_spec(loaded.spec, each) for each in drawn]
    made = [(each.adapter, each.use_dora, each.use_rslora) for each in found]
    assert made == [("lora", False, False), ("lora", True, False), ("lora", False, True), ("vera", False, False)]
    again = SweepSpec.model_validate_json(loaded.spec.model_dump_json())
    assert (again, again.digest) == (loaded.spec, loaded.spec.digest)


def test_a_name_is_a_condition_of_the_field_that_makes_it(tmp_path: Path):
    space = (
        "searcher: grid\nspace: {adapter: {choice: [lora, loraplus]}, "
        "loraplus_lr_ratio: {choice: [4, 8], when: {adapter: loraplus}}}"
    )
    sweep = sweep_texts.load_text(tmp_path, RUN % "" + space).spec
    assert [trial_spec(sweep, each).loraplus_lr_ratio for each in configurations(sweep.space)] == [1, 4, 8]


@pytest.mark.parametrize(
    ("run", "space", "said"),
    [
        (
            ", use_dora: true",
            "adapter: {choice: [lora, dora]}",
            "the run has use_dora: true, so that whatever is drawn would be dora; take it out of the run",
        ),
        (
            ", adapter: pissa",
            "_kind: {choice: [{adapter: lora}, {adapter: pissa, lora_r: 8}]}",
            "adapter: got pissa, whose fields every trial would keep, and the space sets adapter; name it there alone",
        ),
        (
            ", adapter: dora",
            "adapter: {choice: [lora, rslora]}",
            "adapter: got dora, whose fields every trial would keep, and the space sets adapter; name it there alone",
        ),
        (
            ", adapter: galore",
            "adapter: {choice: [full, lora]}",
            "adapter: got galore, whose fields every trial would keep, and the space sets adapter; name it there alone",
        ),
        (
            ", init_lora_weights: pissa",
            "_kind: {choice: [{adapter: lora}, {adapter: pissa, lora_r: 8}]}",
            "the run has init_lora_weights: 'pissa', so that whatever is drawn would be pissa",
        ),
        (
            "",
            "adapter: {choice: [lora, dora]}, use_dora: {choice: [null, true]}",
            "adapter: got dora, which is use_dora: true, with use_dora: false beside it; remove one of them",
        ),
        (
            "",
            "adapter: {choice: [lora, dora]}, use_dora: {choice: [true, false]}",
            "adapter: got dora, which is use_dora: true, with use_dora: false beside it; remove one of them",
        ),
        (
            "",
            "_kind: {choice: [{adapter: rslora, use_rslora: false}]}",
            "got rslora, which is use_rslora: true, with use_rslora: false beside it",
        ),
    ],
)
def test_a_space_that_would_make_another_method_is_refused(tmp_path: Path, run: str, space: str, said: str):
    problems = sweep_texts.problems_of(tmp_path, RUN % run + f"searcher: grid\nspace: {{{space}}}")
    assert any(said in problem for problem in problems), problems
    assert len(problems) == 1


def test_a_grid_file_of_axolotls_may_name_methods(tmp_path: Path):
    (tmp_path / "run.yaml").write_text(LEAST + "val_set_size: 0.1\nmax_steps: 5\n")
    (tmp_path / "grid.yaml").write_text("adapter: [lora, dora]\n")
    sweep = grid_sweep(tmp_path / "run.yaml", tmp_path / "grid.yaml").spec
    assert [trial_spec(sweep, each).use_dora for each in configurations(sweep.space)] == [False, True]


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_in_the_schema_the_reference_and_the_comments(name: str):
    schema = Draft202012Validator(json_schema())
    schema.validate(read_yaml(LEAST + f"adapter: {name}").values)
    assert not schema.is_valid(read_yaml(LEAST + "adapter: dorra").values)
    run = {"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}], "adapter": name}
    Draft202012Validator(sweep_json_schema()).validate({"run": run, "space": {"lora_r": {"choice": [4]}}})
    assert f"`{name}`" in (AdapterFields.model_fields["adapter"].description or "")
    assert f"\n| `{name}` | adapter: " in configuration_markdown()
    assert f"`{name}`" in " ".join(commented_config("org/model", "rows.jsonl").replace("\n#", "").split())
